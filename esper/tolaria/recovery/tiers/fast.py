"""The fast tier: the newest two moments of a run in host memory, copied every so many steps.

A moment can be gone back to once the answers that were in flight at it have been executed, with both services' states;
until then the one before it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from esper.core.errors import RollbackFailed
from esper.kasmina.executor.memory.free import host_memory
from esper.tolaria.plane.pipeline import Flight
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.recovery.tiers.copies import Buffers, size_of
from esper.tolaria.recovery.tiers.deadline import Deadline

MOMENTS = 2
FREE_SHARE = 0.25
"""Of free host memory that both moments may take."""
FEWEST_STEPS, MOST_STEPS = 100, 1000
PER_RUN = 20


def snapshot_steps(total_steps: int, wished: int | None) -> int:
    """Steps between snapshots; 0 for none.

    A step reads and writes weights, gradients and moments about ten times over, a snapshot six times: one in a hundred
    steps costs under a hundredth of them, whatever the model.
    """
    return min(max(total_steps // PER_RUN, FEWEST_STEPS), MOST_STEPS) if wished is None else wished


@dataclass(slots=True)
class _Moment:
    step: int
    snapshot: Snapshot
    flight: Flight
    buffers: Buffers


class FastTier:
    """Moments of one run."""

    name = "memory"

    def __init__(self, deadline_s: float, free_bytes: Callable[[], int | None] = lambda: host_memory().size_bytes):
        self.deadline_s = deadline_s
        self.size_bytes = 0
        self.refusal: str | None = None
        """Why nothing is kept, as long as that is so."""
        self._is_refused = False
        self._free_bytes = free_bytes
        self._asked_bytes: int | None = None
        self._moments: list[_Moment] = []

    def keep(self, step: int, snapshot: Snapshot, flight: Flight) -> bool:
        """Copy a moment of now; False where there is no room for it."""
        held = {"executor": snapshot.executor, "loader": snapshot.loader, "progress": snapshot.progress}
        size = size_of(held)
        if not self._has_room(size):
            self._clear()
            return False
        buffers = self._free_buffers()
        snapshot = replace(snapshot, is_final=False, **buffers.take(held))
        self._moments.append(_Moment(step, snapshot, flight, buffers))
        self.size_bytes = size * len(self._moments)
        return True

    def refuse(self, why: str) -> None:
        """Keep nothing from now on."""
        self._clear()
        self.refusal, self._is_refused = why, True

    def _clear(self) -> None:
        self._moments.clear()
        self.size_bytes = 0

    def newest(self, to_step: int | None = None) -> int | None:
        """Step of the newest moment that can be gone back to, at most `to_step`."""
        moment = self._newest(to_step)
        return None if moment is None else moment.step

    def steps(self) -> list[int]:
        """Of the moments that can be gone back to, oldest first."""
        return [moment.step for moment in self._moments if moment.flight.states is not None]

    def forget_after(self, step: int) -> None:
        """Later moments are of a course that was given up."""
        self._moments = [moment for moment in self._moments if moment.step <= step]

    def whole(self, to_step: int | None = None) -> tuple[int, Snapshot] | None:
        """The newest moment, to be written at once: its tensors are the tier's own."""
        moment = self._newest(to_step)
        if moment is None:
            return None
        _arrive(moment)
        return moment.step, _landed(moment)

    def read(self, to_step: int | None, deadline: Deadline) -> Snapshot:
        """The newest moment; its tensors stay the tier's own. Raises RollbackLate."""
        moment = self._newest(to_step)
        if moment is None:
            raise RollbackFailed("no snapshot is in memory")
        deadline.check()
        _arrive(moment)
        return _landed(moment)

    def _newest(self, to_step: int | None) -> _Moment | None:
        for moment in reversed(self._moments):
            if moment.flight.states is not None and (to_step is None or moment.step <= to_step):
                return moment
        return None

    def _has_room(self, size: int) -> bool:
        """Asked of the machine only when a state has grown."""
        if self._is_refused:
            return False
        if self._asked_bytes is not None and size <= self._asked_bytes:
            return self.refusal is None
        held, free, self._asked_bytes = self.size_bytes, self._free_bytes(), size
        has_room = free is None or MOMENTS * size <= FREE_SHARE * (free + held)
        wanted, there = f"{size / 1e9:.2g} GB", f"{(free or 0) / 1e9:.2g} GB"
        refusal = f"two snapshots of {wanted} are more than a quarter of the {there} of host memory that are free"
        self.refusal = None if has_room else refusal
        return has_room

    def _free_buffers(self) -> Buffers:
        """Those of the moment that is worth least: one that can't be gone back to, else the oldest."""
        if len(self._moments) < MOMENTS:
            return Buffers()
        least = min(self._moments, key=lambda moment: (moment.flight.states is not None, moment.step))
        self._moments.remove(least)
        return least.buffers


def _arrive(moment: _Moment) -> None:
    """Copies from an accelerator go on while it trains."""
    if moment.buffers.is_pinned:
        torch.cuda.synchronize()


def _landed(moment: _Moment) -> Snapshot:
    """With what had been in flight."""
    return replace(moment.snapshot, in_flight=moment.flight.results, states=moment.flight.states)
