"""The full tier: the run's checkpoints on the disk, read in a thread that can be given up."""

from __future__ import annotations

from functools import partial

from esper.core.errors import DependencyViolationError, RollbackFailed
from esper.kasmina.executor import SeedExecutor
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.recovery.tiers.deadline import Deadline


class FullTier:
    """The checkpoints of one run."""

    name = "disk"

    def __init__(self, store: CheckpointStore | None, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._store = store
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
        return max((step for step in self._steps if to_step is None or step <= to_step), default=None)

    def forget_after(self, step: int) -> None:
        """Drop later ones: they are of a course that was given up."""
        self._steps = [known for known in self._steps if known <= step]
        if self._store is not None:
            self._store.forget_after(step)

    def read(self, to_step: int | None, executor: SeedExecutor, deadline: Deadline) -> Snapshot:
        """The newest whole checkpoint. Raises RollbackFailed, also for none in time."""
        if self._store is None:
            raise RollbackFailed("nothing to go back to: no checkpoint was written yet")
        try:
            found = deadline.within(partial(self._store.newest, to_step, deadline.check))
        except DependencyViolationError as error:
            raise RollbackFailed(f"nothing to go back to: {error}") from error
        return Snapshot.from_state(found.state)
