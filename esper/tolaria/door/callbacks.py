"""Callbacks of a script as observers: an `Observer` of one's own, or a function that is given every event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from esper.core.errors import ConfigError
from esper.tolaria.door.doubts import Warns
from esper.tolaria.record.observer import Boundary, CheckpointWritten, EpochDone, Notice, Observer, RunStarted, StepDone
from esper.tolaria.record.shielded import Shielded
from esper.tolaria.record.terminal.display import PlainDisplay


class Told(Observer):
    """A function that is called with each thing that a run tells, one at a time."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    def on_start(self, started: RunStarted) -> None:
        self._function(started)

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        for step in steps:
            self._function(step)

    def on_boundary(self, boundary: Boundary) -> None:
        self._function(boundary)

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._function(notice)

    def on_epoch(self, done: EpochDone) -> None:
        self._function(done)

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        self._function(written)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._function(summary)


def observers_of(
    callbacks: Iterable[Observer | Callable[[Any], None]], lost: Callable[[BaseException], None]
) -> list[Observer]:
    """Observers whose failures, told to `lost`, harm no run. Raises ConfigError for what is no list of callbacks."""
    if not isinstance(callbacks, Iterable):
        raise ConfigError("callbacks", type(callbacks).__name__, "expected a list: callbacks=[it]")
    given = [observer_of(callback) for callback in callbacks]
    is_shown = any(isinstance(each, PlainDisplay) for each in given)
    return [*(Shielded(each, lost) for each in given), *([] if is_shown else [Warns()])]


def observer_of(callback: Observer | Callable[[Any], None]) -> Observer:
    """Raises ConfigError for what is neither."""
    if isinstance(callback, Observer):
        return callback
    if not callable(callback):
        raise ConfigError("callbacks", type(callback).__name__, "expected an Observer, or a function of one event")
    return Told(callback)
