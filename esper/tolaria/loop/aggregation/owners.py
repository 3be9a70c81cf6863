"""Whose each parameter of a grown arm is: the host's, or a seed's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from torch import nn

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.kernels import MAX_ROWS

HOST = "host"


class Span(NamedTuple):
    """A run of neighbours in a list: from `begin` to before `end`."""

    begin: int
    end: int


class Owners:
    """The trainable parameters of an arm, the host's first, then each seed's in the order of their grafts.

    Of more than 63 seeds the oldest count as the host's: so many rows do the operators take.
    """

    def __init__(self, arm: TrainingArm) -> None:
        self.grafts: tuple[Graft, ...] = tuple(arm.grafts[-(MAX_ROWS - 1) :])
        names = {parameter: name for name, parameter in arm.model.named_parameters()}
        places: dict[nn.Parameter, int] = {}
        for graft in arm.grafts:
            for name, parameter in graft.module.named_parameters():
                names[parameter] = f"{graft.seed_id}.{name}"
        for place, graft in enumerate(self.grafts, 1):
            places |= dict.fromkeys(graft.module.parameters(), place)
        owned: list[list[nn.Parameter]] = [[] for _ in range(len(self.grafts) + 1)]
        for parameter in trainable(arm):
            owned[places.get(parameter, 0)].append(parameter)
        self.parameters: list[nn.Parameter] = list(chain.from_iterable(owned))
        self.names: list[str] = [names.get(parameter, "") for parameter in self.parameters]
        self.spans: list[Span] = _spans([len(each) for each in owned])
        """Of each owner in `parameters`."""
        self.of_each: list[int] = [place for place, each in enumerate(owned) for _ in each]
        """Of each parameter in `parameters`, by its place: 0 is the host."""
        self.sizes: list[int] = [sum(parameter.numel() for parameter in each) for each in owned]

    def are_of(self, arm: TrainingArm) -> bool:
        """Whether the arm is as it was: the same seeds, the same parameters."""
        grafts, now = arm.grafts[-(MAX_ROWS - 1) :], trainable(arm)
        return (
            [id(graft) for graft in grafts] == [id(graft) for graft in self.grafts]
            and len(now) == len(self.parameters)
            and {id(parameter) for parameter in now} == {id(parameter) for parameter in self.parameters}
        )


def trainable(arm: TrainingArm) -> list[nn.Parameter]:
    """What the optimiser moves."""
    return [p for group in arm.optimizer.param_groups for p in group["params"] if p.requires_grad]


def _spans(counts: Sequence[int]) -> list[Span]:
    found, end = [], 0
    for count in counts:
        found.append(Span(end, end + count))
        end += count
    return found
