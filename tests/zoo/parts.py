"""What several of the zoo's own networks are made of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tests.zoo.network import CLASSES

WIDTH, FEATURES = 16, 12
Layer = Callable[[], nn.Module]


def mlp(*between: Layer, widths: tuple[int, ...] = (WIDTH, WIDTH), outputs: int = CLASSES) -> nn.Sequential:
    """Linear layers with ReLU, and after each hidden one the layers given."""
    layers: list[nn.Module] = []
    fan_in = FEATURES
    for width in widths:
        layers += [nn.Linear(fan_in, width), *(make() for make in between), nn.ReLU()]
        fan_in = width
    return nn.Sequential(*layers, nn.Linear(fan_in, outputs))


class Residual(nn.Module):
    """Adds to its input what its layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Pooled(nn.Module):
    """A classifier over the mean of a sequence's features [batch, positions, features]."""

    def __init__(self, body: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(1))
        return out
