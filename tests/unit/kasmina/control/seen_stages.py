"""The stages that seeds are seen in, one after another: each must be reachable from the one before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from esper.kasmina.control.stages.lifecycle import ALIVE, NEXT, STACK_NEXT
from esper.leyline import SeedRecord, SeedStage


class Stages:
    """Every stage that a look has found, by seed."""

    def __init__(self) -> None:
        self._lived: dict[str, list[int]] = {}

    def see(self, records: Sequence[SeedRecord]) -> None:
        """Look once more: at most one seed is alive, and each has moved as it may."""
        for record in records:
            lived = self._lived.setdefault(record.state.seed_id, [SeedStage.SEED_STAGE_DORMANT])
            if lived[-1] != record.state.stage:
                lived.append(record.state.stage)
            for before, after in itertools.pairwise(lived):
                assert after in reachable(before)
        assert sum(record.state.stage in ALIVE for record in records) <= 1


def reachable(stage: int) -> set[int]:
    """Stages that a seed may be seen in after this one: between two looks it may make several moves."""
    found: set[int] = set()
    frontier = {stage}
    while frontier:
        frontier = {after for before in frontier for after in NEXT[before] | STACK_NEXT[before]} - found  # type: ignore[index]
        found |= frontier
    return found
