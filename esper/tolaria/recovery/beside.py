"""A checkpoint that is written while training goes on: from the copy of its moment in memory.

It waits for what was in flight at that moment, then a thread makes the bytes and the file. All else is of the training
thread, which asks at every boundary what has become of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as ended
from dataclasses import dataclass
from typing import Generic, TypeVar

from esper.core.process.worker import AsyncWorker
from esper.tolaria.plane.pipeline import Flight

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Moment(Generic[T]):
    flight: Flight
    write: Callable[[], T]


class Beside(Generic[T]):
    """At most one checkpoint on its way to the disk."""

    def __init__(self) -> None:
        self._worker = AsyncWorker(max_concurrency=1)
        self._waiting: _Moment[T] | None = None
        self._writing: Future[T] | None = None

    def begin(self, flight: Flight, write: Callable[[], T]) -> None:
        """Have `write` called in the thread once `flight` has arrived; `settle` must have come before."""
        self._waiting = _Moment(flight, write)
        self.go_on()

    def go_on(self) -> bool:
        """Begin to write what has waited, if it may; False where it never will: the services' states were not had."""
        if self._waiting is None or not self._waiting.flight.has_arrived:
            return True
        moment, self._waiting = self._waiting, None
        if moment.flight.states is None:
            return False
        self._writing = self._worker.submit(moment.write, name="checkpoint")
        return True

    def taken(self) -> T | None:
        """What a write that is over gave, once. Raises what it raised."""
        if self._writing is None or not self._writing.done():
            return None
        writing, self._writing = self._writing, None
        return writing.result()

    def settle(self) -> bool:
        """Wait for the thread, and give up what waits for answers; True where there was such a one."""
        was_waiting, self._waiting = self._waiting is not None, None
        if self._writing is not None:
            ended([self._writing])
        return was_waiting

    def close(self) -> None:
        """Write to the end what is being written, and nothing more."""
        self.settle()
        self._worker.close()
