"""Networks with blocks, as people write them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Config:
    """A configuration shared by every block, as Hugging Face's models have it."""

    num_hidden_layers: int = 3
    width: int = 8
    layer_types: list[str] = field(default_factory=lambda: ["sliding", "full", "sliding"])


class Block(nn.Module):
    def __init__(self, config: Config, layer_idx: int, width: int | None = None) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(nn.Linear(config.width, width or 16), nn.GELU(), nn.Linear(width or 16, config.width))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x + self.mlp(self.norm(x)),)


class Decoder(nn.Module):
    """Runs the first `num_hidden_layers` of its blocks, as some families do."""

    def __init__(self, blocks: list[nn.Module], config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(blocks)
        self.head = nn.Linear(config.width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[: self.config.num_hidden_layers]:
            x = layer(x)[0]
        out: Tensor = self.head(x)
        return out


def decoder(depth: int = 3) -> Decoder:
    torch.manual_seed(0)
    config = Config(num_hidden_layers=depth, layer_types=["sliding", "full", "sliding"][:depth])
    return Decoder([Block(config, index) for index in range(depth)], config)


class Shared(nn.Module):
    """One block that runs four times, as ALBERT has it: by itself, or in a list of one."""

    def __init__(self, *, grouped: bool) -> None:
        super().__init__()
        block = Block(Config(4), 0)
        if grouped:
            self.layers = nn.ModuleList([block])
        else:
            self.block = block

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = (self.layers[0] if hasattr(self, "layers") else self.block)(x)[0]
        return x


class Experts(nn.Module):
    """Equal blocks side by side: each reads the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([expert(x) for expert in self.experts]).sum(0)


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)) + self.skip(x))


class ResNet(nn.Module):
    """A stage whose first block changes the channels: the equal ones are its tail."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Residual(3, 8), Residual(8, 8), Residual(8, 8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.layer1(x).mean((2, 3)))
        return out
