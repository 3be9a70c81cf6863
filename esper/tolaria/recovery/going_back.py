"""Going back, by order or because a step can't be used: the last good state, and an account of what is undone."""

from __future__ import annotations

from esper.core.errors import RollbackFailed
from esper.tolaria.loop.session import Session
from esper.tolaria.recovery.rollback import Restored
from esper.tolaria.recovery.saves import Saves
from esper.tolaria.recovery.snapshot import Snapshot


class GoingBack:
    """Takes a run back as often as its settings allow."""

    def __init__(self, session: Session, saves: Saves) -> None:
        self._session = session
        self._saves = saves
        self._slower = 0

    def find(self, why: str, to_step: int | None) -> Restored:
        """The state to go back to. Raises RollbackFailed, also for once too often."""
        made, allowed = self._session.progress.history.rollbacks, self._session.run.config.max_rollbacks
        if made >= allowed:
            raise RollbackFailed(f"{why}; {made} rollbacks were made already, which is max_rollbacks")
        try:
            return self._saves.last_good(to_step)
        except RollbackFailed as error:
            raise RollbackFailed(f"{why}; {error}") from error

    def apply(self, restored: Restored, why: str, *, slower: bool) -> Snapshot:
        """Put the state in place. Generation, count and cost go on: what was undone was spent all the same."""
        session, progress = self._session, self._session.progress
        rollbacks, costs, generation = progress.history.rollbacks + 1, progress.macs.total, progress.generation
        session.log.flush()
        snapshot = Snapshot.from_state(restored.state)
        self._saves.restore(snapshot)
        progress.generation = generation
        progress.history.rollbacks = rollbacks
        progress.macs.undone += costs - progress.macs.total
        if slower:
            self._slow_down()
            self._saves.owe()  # older saves lead to another course, that of the former rate
        message = f"{why}; back to step {progress.step} from {restored.tier} in {restored.latency_ms:.1f} ms"
        session.notice("tolaria.rollback", "ERROR", message)
        return snapshot

    def note_save(self) -> None:
        """A later state was saved: the next slowdown starts from its rate."""
        self._slower = 0

    def _slow_down(self) -> None:
        """The same steps at the same rate would end the same way, so each further try is slower."""
        self._slower += 1
        executor, factor = self._session.run.executor, self._session.run.config.rollback_lr_factor
        for arm in filter(None, (executor.arm, executor.twin)):
            arm.scheduler.factor *= factor**self._slower
