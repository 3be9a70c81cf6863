"""Going back, by order or because a step can't be used: the last good state, and an account of what is undone."""

from __future__ import annotations

from esper.core.errors import RollbackFailed, RollbackLate
from esper.tolaria.loop.session import Session
from esper.tolaria.loop.setback import Setback
from esper.tolaria.record.history import History
from esper.tolaria.recovery.saves import Saves
from esper.tolaria.recovery.snapshot import Snapshot

MISSED = "tolaria.rollback.deadline_exceeded"
FAILED = "tolaria.rollback.restore_failed"


class GoingBack:
    """Takes a run back as often as its settings allow."""

    def __init__(self, session: Session, saves: Saves) -> None:
        self._session = session
        self._saves = saves

    def go(self, setback: Setback) -> Snapshot:
        """Put the last good state in place. Raises RollbackFailed, also for once too often.

        Generation, counts and cost go on: what was undone was spent all the same.
        """
        session, progress = self._session, self._session.progress
        self._refuse_once_too_often(setback)
        session.log.flush()
        left, generation = progress.history, progress.generation
        spent = progress.macs.total
        try:
            snapshot, told = self._saves.go_back(_bounds(setback))
        except RollbackFailed as error:
            self._tell_failure(error, setback)
            raise
        progress.generation = generation
        progress.macs.undone += spent - progress.macs.total
        self._carry_over(left, setback)
        message = f"{setback.why}; back to step {progress.step} {told}{self._rate() if setback.is_slower else ''}"
        session.notice("tolaria.rollback", "ERROR", message)
        return snapshot

    def obstacle(self, setback: Setback) -> str:
        """Why an order to go back can't be followed, told to whoever gave it; empty if it can.

        The first rank knows what is on the disk, and answers for all.
        """
        return self._session.ranks.told(self._own_obstacle(setback).encode()).decode()

    def _own_obstacle(self, setback: Setback) -> str:
        if spent := self._spent():
            return spent
        steps = self._saves.steps_to_go_back_to()
        if not steps:
            return "no state was kept yet"
        if setback.to_step is None or steps[0] <= setback.to_step:
            return ""
        kept = ", ".join(map(str, steps))
        return (
            f"no state up to step {setback.to_step} is kept; it can go back to {kept}: name one of them or a later step"
        )

    def _refuse_once_too_often(self, setback: Setback) -> None:
        if spent := self._spent():
            raise RollbackFailed(f"{setback.why}; {spent}")

    def _spent(self) -> str:
        made, allowed = self._session.progress.history.rollbacks, self._session.run.config.max_rollbacks
        return f"{made} of max_rollbacks = {allowed} were made already" if made >= allowed else ""

    def _tell_failure(self, error: RollbackFailed, setback: Setback) -> None:
        name = MISSED if isinstance(error, RollbackLate) else FAILED
        error.args = (f"{setback.why}; {error}",)
        self._session.notice(name, "CRITICAL", str(error))

    def _carry_over(self, left: History, setback: Setback) -> None:
        """What stays true of a course that was given up, and what the next one does otherwise."""
        history = self._session.progress.history
        known = history.slowdowns
        history.rollbacks = left.rollbacks + 1
        history.slowdowns = left.slowdowns + setback.is_slower
        history.failed_steps, history.passed_over = list(left.failed_steps), list(left.passed_over)
        if setback.failed_step is not None:
            self._pass_over(history, setback.failed_step)
        if setback.is_slower:
            self._slow_down(history.slowdowns - known)
            self._saves.owe()  # older saves lead to another course, that of the former rate

    def _pass_over(self, history: History, step: int) -> None:
        """A step that fails again, at a lower rate, fails by its batch, or by what the one before it left behind."""
        is_second_time = step in history.failed_steps
        history.failed_steps.append(step)
        if not is_second_time or not self._session.run.loader.is_replayable or step in history.passed_over:
            return
        history.passed_over += [bad for bad in (step - 1, step) if bad >= 0 and bad not in history.passed_over]
        message = f"the batches of steps {max(0, step - 1)} and {step} are passed over: the loss failed there twice"
        self._session.notice("tolaria.batch_passed_over", "ERROR", message)

    def _slow_down(self, times: int) -> None:
        """The same steps at the same rate would end the same way, so each further try is slower.

        `times` are the slowdowns that the restored state doesn't know of.
        """
        executor, factor = self._session.run.executor, self._session.run.config.rollback_lr_factor
        for arm in filter(None, (executor.arm, executor.twin)):
            arm.scheduler.factor *= factor**times

    def _rate(self) -> str:
        return f", at {self._session.run.executor.arm.scheduler.factor:.3g} of the learning rate"


def _bounds(setback: Setback) -> tuple[int | None, ...]:
    """The newest steps to look for, best first."""
    if setback.proven_to is None:
        return (setback.to_step,)
    proven = setback.proven_to if setback.to_step is None else min(setback.proven_to, setback.to_step)
    return (proven, setback.to_step)
