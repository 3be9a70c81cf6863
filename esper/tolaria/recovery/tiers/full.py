"""The full tier: the run's checkpoints on the disk, read in a thread that can be given up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from esper.core.errors import DependencyViolationError, RollbackFailed
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.parts import whole
from esper.tolaria.recovery.shared import shared_snapshot
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.recovery.tiers.deadline import Deadline


class FullTier:
    """The checkpoints of one run."""

    name = "disk"

    def __init__(
        self, store: CheckpointStore | None, deadline_s: float, ranks: Ranks = ALONE, *, in_parts: bool = False
    ) -> None:
        self.deadline_s = deadline_s
        self._store = store
        self._ranks = ranks
        self._in_parts = in_parts  # then each rank reads its own, as it loads them
        self._steps: list[int] = []

    def note(self, *steps: int) -> None:
        """Checkpoints are there: known, so that a disk that hangs is not asked before memory is; older are gone."""
        known = sorted({*self._steps, *steps})
        self._steps = known if self._store is None else known[-self._store.kept :]

    def steps(self) -> list[int]:
        """Of the known checkpoints, oldest first."""
        return list(self._steps)

    def newest(self, to_step: int | None) -> int | None:
        """Step of the newest known checkpoint, at most `to_step`; whether it is whole shows when it is read."""
        found = max((step for step in self._steps if to_step is None or step <= to_step), default=None)
        told = self._ranks.told(b"" if found is None else str(found).encode())
        return int(told) if told else None

    def forget_after(self, step: int) -> None:
        """Drop later ones: they are of a course that was given up."""
        self._steps = [known for known in self._steps if known <= step]
        if self._store is not None:
            self._store.forget_after(step)

    def read(self, to_step: int | None, deadline: Deadline) -> Snapshot:
        """The newest whole checkpoint, which the first rank reads. Raises RollbackFailed, also for none in time."""
        return shared_snapshot(self._ranks, partial(self._read, to_step, deadline))

    def _read(self, to_step: int | None, deadline: Deadline) -> Snapshot:
        if self._store is None:
            raise RollbackFailed("nothing to go back to: no checkpoint was written yet")
        try:
            return deadline.within(partial(self._snapshot, self._store, to_step, deadline))
        except DependencyViolationError as error:
            raise RollbackFailed(f"nothing to go back to: {error}") from error

    def _snapshot(self, store: CheckpointStore, to_step: int | None, deadline: Deadline) -> Snapshot:
        snapshot = Snapshot.from_state(store.newest(to_step, deadline.check, is_passing=True).state)
        return snapshot if self._in_parts else replace(snapshot, executor=whole(snapshot.executor, store.folder))
