"""Networks that are run in other ways: compiled, scripted, traced, checkpointed, with control flow of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.zoo.network import CLASSES, Network, of_family
from tests.zoo.parts import FEATURES, WIDTH, Residual, mlp


def compiled() -> nn.Module:
    host: nn.Module = torch.compile(mlp(), backend="eager")
    return host


class Branching(nn.Module):
    """Which branch is taken depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.block = Residual(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        if x.mean() > 10:
            x = x / x.mean()
        out: Tensor = self.head(self.block(x))
        return out


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.blocks = nn.ModuleList(
            [Residual(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)  # type: ignore[no-untyped-call]
        out: Tensor = self.head(x)
        return out


def quietly(make: Callable[[], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def scripted() -> nn.Module:
    return quietly(lambda: torch.jit.script(mlp()))


def traced() -> nn.Module:
    return quietly(lambda: torch.jit.trace(mlp(), torch.randn(2, FEATURES)))


def scripted_part() -> nn.Module:
    return quietly(
        lambda: nn.Sequential(
            nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, FEATURES), torch.jit.script(mlp())
        )
    )


NETWORKS = of_family(
    "run in other ways",
    [
        Network(name="torch.compile", build=compiled, shape=(FEATURES,)),
        Network(name="data-dependent control flow", build=Branching, shape=(FEATURES,)),
        Network(name="checkpointed blocks", build=Checkpointed, shape=(FEATURES,)),
        Network(name="jit.script", build=scripted, shape=(FEATURES,)),
        Network(name="jit.trace", build=traced, shape=(FEATURES,)),
        Network(name="jit.script of a part", build=scripted_part, shape=(FEATURES,)),
    ],
)
