"""Models that somebody else could bring: compiled, checkpointed, scripted, unwilling to be looked at."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

BATCHES: list[int] = []
"""Sizes of the batches for which a graph was made or run."""


def noting(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    def forward(*arguments: Any) -> Any:
        BATCHES.append(max(argument.shape[0] for argument in arguments if isinstance(argument, Tensor)))
        return graph.forward(*arguments)

    return forward


def plain(shape: tuple[int, ...], outputs: int) -> nn.Module:
    layers = OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(prod(shape), 6), act1=nn.ReLU(), fc2=nn.Linear(6, outputs))
    return nn.Sequential(layers)


def compiled(shape: tuple[int, ...], outputs: int) -> nn.Module:
    made: nn.Module = torch.compile(plain(shape, outputs), backend=noting)
    return made


class Checkpointed(nn.Module):
    def __init__(self, shape: tuple[int, ...], outputs: int, *, use_reentrant: bool) -> None:
        super().__init__()
        self.net = plain(shape, outputs)
        self.first = nn.Linear(outputs, outputs)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(self.net(x))
        return checkpoint(self.first, hidden, use_reentrant=self.use_reentrant)


def reentrant(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Checkpointed(shape, outputs, use_reentrant=True)


class Unwilling(nn.Module):
    """Raises an error of its own where hooks or counters watch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        if any(part._forward_hooks for part in self.modules()) or _get_current_dispatch_mode() is not None:
            raise LookupError("I will not be watched")
        return self.net(x)


def unwilling(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Unwilling(plain(shape, outputs))
