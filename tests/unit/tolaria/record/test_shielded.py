"""What watches a run may fail at any call; the run doesn't notice."""

from __future__ import annotations

from typing import Any

import pytest

from esper.tolaria.record.observer import Observer
from esper.tolaria.record.shielded import Shielded

CALLS = [name for name in vars(Observer) if name.startswith("on_")]


class Recorder(Observer):
    """Keeps what it hears, and fails where it is told to."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.heard: list[str] = []
        self.failure = failure

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def hear(value: object) -> None:
            self.heard.append(name)
            if self.failure is not None:
                raise self.failure

        return hear


def test_everything_is_passed_on() -> None:
    recorder, told = Recorder(), list[BaseException]()
    shielded = Shielded(recorder, told.append)
    for name in CALLS:
        getattr(shielded, name)(None)
    assert recorder.heard == CALLS
    assert told == []


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("failure", [BrokenPipeError(32, "Broken pipe"), ZeroDivisionError(), SystemExit(1)])
def test_a_failure_is_told_once_and_then_nothing_is_passed_on(name: str, failure: BaseException) -> None:
    recorder, told = Recorder(failure), list[BaseException]()
    shielded = Shielded(recorder, told.append)
    for _ in range(3):
        getattr(shielded, name)(None)
    assert (recorder.heard, told) == ([name], [failure])


def test_an_interruption_is_no_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        Shielded(Recorder(KeyboardInterrupt()), list[BaseException]().append).on_steps([])
