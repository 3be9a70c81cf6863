"""Networks for tables, in the style of rtdl and TabNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.network import CLASSES, Network, of_family
from tests.zoo.parts import FEATURES, WIDTH, Residual


def tabular_mlp() -> nn.Module:
    blocks = [
        nn.Sequential(nn.Linear(fan_in, WIDTH), nn.ReLU(), nn.Dropout(0.1)) for fan_in in (FEATURES, WIDTH, WIDTH)
    ]
    return nn.Sequential(nn.Sequential(*blocks), nn.Linear(WIDTH, CLASSES))


class TabularResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, WIDTH)
        self.blocks = nn.Sequential(*(self._block() for _ in range(2)))
        self.head = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    @staticmethod
    def _block() -> nn.Module:
        return Residual(
            nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.first(x)))
        return out


class ReGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.relu(gate)


class FTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), ReGLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed)[0]
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


class FTTransformer(nn.Module):
    """A token for each feature and one for the class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(FEATURES, WIDTH))
        self.bias = nn.Parameter(0.3 * torch.randn(FEATURES, WIDTH))
        self.cls = nn.Parameter(0.3 * torch.randn(WIDTH))
        self.blocks = nn.ModuleList([FTBlock(), FTBlock()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(-1) * self.weight + self.bias
        x = torch.cat([tokens, self.cls.expand(len(x), 1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(F.relu(self.norm(x[:, -1])))
        return out


class GLULayer(nn.Module):
    """A linear layer with its norm over ghost batches and a gate."""

    def __init__(self, fan_in: int, shared: nn.Linear | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(fan_in, 2 * WIDTH, bias=False) if shared is None else shared
        self.bn = nn.BatchNorm1d(2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.bn(self.fc(x)), -1)


class TabNet(nn.Module):
    """Two decision steps, each with an attentive mask over features; steps share their first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        shared = nn.Linear(FEATURES, 2 * WIDTH, bias=False)
        self.first = nn.ModuleList([GLULayer(FEATURES, shared) for _ in range(2)])
        self.second = nn.ModuleList([GLULayer(WIDTH) for _ in range(2)])
        self.masks = nn.ModuleList(
            [nn.Sequential(nn.Linear(WIDTH, FEATURES), nn.BatchNorm1d(FEATURES)) for _ in range(2)]
        )
        self.start, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        state, prior, decided = self.start(x), torch.ones_like(x), 0.0
        for first, second, mask in zip(self.first, self.second, self.masks, strict=True):
            weights = torch.softmax(mask(state) * prior, -1)
            prior = prior * (1.3 - weights)
            hidden = first(weights * x)
            state = (hidden + second(hidden)) * 0.5**0.5
            decided = decided + F.relu(state)
        out: Tensor = self.head(decided)
        return out


NETWORKS = of_family(
    "tables",
    [
        Network(name="rtdl MLP", build=tabular_mlp, shape=(FEATURES,)),
        Network(name="rtdl ResNet", build=TabularResNet, shape=(FEATURES,)),
        Network(name="rtdl FT-Transformer", build=FTTransformer, shape=(FEATURES,)),
        Network(name="TabNet", build=TabNet, shape=(FEATURES,)),
    ],
)
