"""An observer that may fail without harm: from then on it is left out, which is told once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from esper.tolaria.record.network import Network
from esper.tolaria.record.observer import (
    Boundary,
    CheckpointWritten,
    EpochDone,
    Notice,
    Observer,
    RollbackFigures,
    RunStarted,
    StepDone,
    TwinStep,
)

T = TypeVar("T")


class Shielded(Observer):
    """Stands between a run and an observer that it doesn't depend on, such as a display whose terminal may go away."""

    def __init__(self, observer: Observer, tell: Callable[[BaseException], None]) -> None:
        self._observer = observer
        self._tell = tell
        self._is_lost = False

    def _give(self, call: Callable[[T], None], value: T) -> None:
        if self._is_lost:
            return
        try:
            call(value)
        # Whatever it is, the run goes on; a console ends the program when its reader goes away.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._is_lost = True
            self._tell(error)

    def on_start(self, started: RunStarted) -> None:
        self._give(self._observer.on_start, started)

    def on_network(self, network: Network) -> None:
        self._give(self._observer.on_network, network)

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self._give(self._observer.on_steps, steps)

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        self._give(self._observer.on_twin_steps, steps)

    def on_boundary(self, boundary: Boundary) -> None:
        self._give(self._observer.on_boundary, boundary)

    def on_events(self, notices: Sequence[Notice]) -> None:
        self._give(self._observer.on_events, notices)

    def on_epoch(self, done: EpochDone) -> None:
        self._give(self._observer.on_epoch, done)

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        self._give(self._observer.on_checkpoint, written)

    def on_snapshot(self, step: int) -> None:
        self._give(self._observer.on_snapshot, step)

    def on_rollback(self, figures: RollbackFigures) -> None:
        self._give(self._observer.on_rollback, figures)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._give(self._observer.on_finish, summary)
