"""The exponential average of a network's weights, which follows whatever is grown in it.

It is one more thing that the optimiser remembers of each parameter, so it is copied for twins and stacks, joined in
folds, saved and counted as momentum is. A parameter that no step has moved yet has none: it is its own average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

KEY = "average"


class Average:
    """Averages after each step of an optimiser, as `torch.optim.swa_utils.AveragedModel` does without buffers.

    The first step's result is the first average. A parameter that comes later, as a seed's does, counts from what it
    was before its first step, so that a graft which changes no output changes none of the average either.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._before: dict[nn.Parameter, Tensor] = {}
        optimizer.register_step_pre_hook(self._note)
        optimizer.register_step_post_hook(self._follow)

    def _note(self, optimizer: Optimizer, *_: Any) -> None:
        known = {member for member, _ in averages(optimizer)}
        moving = [member for member in _members(optimizer) if member.grad is not None and member not in known]
        self._before = {member: member.detach().clone() if known else member.detach() for member in moving}

    @torch.no_grad()
    def _follow(self, optimizer: Optimizer, *_: Any) -> None:
        started, self._before = self._before, {}
        is_first = not any(True for _ in averages(optimizer))
        # Not before the step: an optimiser that finds something of a parameter takes it for what it has put there.
        for member, value in started.items():
            optimizer.state[member][KEY] = value.clone() if is_first else value
        pairs = [] if is_first else list(averages(optimizer))
        if pairs:
            self._update([value for _, value in pairs], [member.detach() for member, _ in pairs], 0)


def averages(optimizer: Optimizer) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each parameter that has an average, with it."""
    for member in _members(optimizer):
        value = optimizer.state.get(member, {}).get(KEY)
        if value is not None:
            yield member, value


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Weights and averages change places, in the memory that they are in."""
    swap_averages(optimizer)
    try:
        yield
    finally:
        swap_averages(optimizer)


@torch.no_grad()
def swap_averages(optimizer: Optimizer) -> None:
    """Let each weight be its average, and the average be the weight."""
    for member, value in averages(optimizer):
        weight = member.detach().clone()
        member.copy_(value)
        value.copy_(weight)


def _members(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
