"""An activation of the host's own is known by what it does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor.slots.pointwise import pointwise_modules


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) * 1.1


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Normed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.sum(-1, keepdim=True)


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


@pytest.mark.parametrize(
    ("module", "is_pointwise"),
    [(Squared(), True), (Wrapped(), True), (Scaled(), False), (Normed(), False), (Deciding(), False), (Two(), False)],
    ids=lambda value: type(value).__name__,
)
def test_what_works_value_by_value_is_told_from_what_does_not(module, is_pointwise):
    assert (module in pointwise_modules(nn.Sequential(module))) is is_pointwise
