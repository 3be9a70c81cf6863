"""A deadline that really ends work: pieces ask it, and a thread that outlives it is never heard again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from esper.core.clock import NS_PER_S, Clock
from esper.core.errors import AsyncTimeoutError, RollbackLate
from esper.core.process.worker import AsyncWorker

T = TypeVar("T")


class Deadline:
    """The time that one restore has."""

    def __init__(self, clock: Clock, tier: str, limit_s: float) -> None:
        self._clock = clock
        self._tier = tier
        self._limit_s = limit_s
        self._began_ns = clock.monotonic_ns()
        self._is_over = threading.Event()

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return (self._clock.monotonic_ns() - self._began_ns) / NS_PER_S

    @property
    def is_missed(self) -> bool:
        """Whether it is over."""
        return self._is_over.is_set() or self.elapsed_s > self._limit_s

    def check(self) -> None:
        """Ask between two pieces of work. Raises RollbackLate, once it was missed for ever."""
        if self.is_missed:
            raise self.late()

    def within(self, work: Callable[[], T]) -> T:
        """The result of work that may block, in a thread of its own; what comes later is dropped. Raises RollbackLate.

        A thread can't be stopped from outside: it ends at the next piece of its work that asks.
        """
        worker = AsyncWorker(max_concurrency=1)
        try:
            left_s = max(0.0, self._limit_s - self.elapsed_s)
            return worker.call(work, name=f"restore-{self._tier}", timeout_s=left_s)
        except AsyncTimeoutError:
            raise self.late() from None
        finally:
            worker.close()

    def late(self) -> RollbackLate:
        """The error that says so; from now on it is missed for whoever asks."""
        self._is_over.set()
        return RollbackLate(self._tier, self._limit_s * 1e3, self.elapsed_s * 1e3)
