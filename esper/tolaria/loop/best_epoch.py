"""Which epoch was the best, and whether the run ends because none has gained for long.

A judgement in flight is waited for: what is measured meanwhile may be undone, so it counts neither as a gain nor as
none, and a run never ends in it.
"""

from __future__ import annotations

from esper.core.counted import counted
from esper.tolaria.loop.session import Session
from esper.tolaria.task.objective.task import Evaluation


class BestEpoch:
    """Looks at each epoch of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, validation: Evaluation) -> None:
        """An epoch is over."""
        session, config, executor = self._session, self._session.run.config, self._session.run.executor
        if (config.patience is None and not config.keep_best) or executor.is_unsettled or executor.twin is not None:
            return
        progress = session.progress
        is_best = progress.best.note(
            *validation.figures, epoch=session.epoch, step=progress.step, min_delta=config.min_delta
        )
        if is_best and config.keep_best:
            progress.best.network = executor.network()

    @property
    def why_end(self) -> str | None:
        """Why the run ends before its time; None while it doesn't."""
        best, config = self._session.progress.best, self._session.run.config
        if config.patience is None or best.idle_epochs < config.patience:
            return None
        enough = f" by more than {config.min_delta:g}" if config.min_delta else ""
        found = f"the best is {best.loss:.4g}, after epoch {best.epoch}" if best.is_there else "no epoch gave a number"
        idle = f"for {counted(config.patience, 'epoch')} without a judgement"
        return f"the validation loss has not fallen{enough} {idle}; {found}"
