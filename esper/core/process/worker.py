"""A worker: blocking calls in a few threads, each with a deadline that includes its wait in the queue.

An event loop awaits `run`; a thread calls `call`, or `submit` and takes the result later. No thread can be stopped from
outside: the result of a late or cancelled call is dropped, `on_late` may cut what it waits for, and it keeps its place
until it ends. The threads are daemons, so that a call that never ends, on a hung disk for instance, doesn't keep the
process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Generic, TypeVar

from esper.core.errors import AsyncTimeoutError, BackPressure, ConfigError, ServiceUnavailable
from esper.core.process.awaited import awaited

T = TypeVar("T")
MAX_QUEUED = 1024
RETRY_AFTER_S = 1.0
# A thread without work goes after this long.
IDLE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What became of the calls. All that were submitted are in one of the others, or still pending."""

    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    timed_out: int = 0
    rejected: int = 0

    @property
    def pending(self) -> int:
        """Calls that wait or run; a late call that runs on isn't one any more."""
        return self.submitted - self.done - self.failed - self.cancelled - self.timed_out - self.rejected

    def by_fate(self) -> dict[str, int]:
        """Each count under its name."""
        return {name: getattr(self, name) for name in FATES}


FATES = tuple(fate.name for fate in fields(Counts))


@dataclass(kw_only=True, slots=True, eq=False)
class _Job(Generic[T]):
    """One call: its future ends once, by its result, its deadline or its cancellation, whichever is first."""

    work: Callable[[], T]
    name: str
    timeout_s: float | None
    on_late: Callable[[], object] | None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    future: Future[T] = field(default_factory=Future)
    due_s: float = float("inf")

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.due_s

    def made(self) -> Callable[[], object]:
        """Do the work; gives how to end with it. What comes of it too late is dropped."""
        threading.current_thread().name = self.name
        try:
            result = self.context.run(self.work)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
            return partial(self.end, partial(self.future.set_exception, error))
        return self.expire if self.is_late else partial(self.end, partial(self.future.set_result, result))

    def expire(self) -> None:
        self.end(partial(self.future.set_exception, AsyncTimeoutError(self.name, self.timeout_s or 0.0)))

    def end(self, ending: Callable[[], object]) -> None:
        with suppress(InvalidStateError):
            ending()


class AsyncWorker:
    """Runs at most `max_concurrency` blocking calls at a time, in the order in which they came."""

    def __init__(self, max_concurrency: int = 4, max_queued: int = MAX_QUEUED) -> None:
        if max_concurrency < 1:
            raise ConfigError("max_concurrency", max_concurrency, "at least one call must be able to run")
        if max_queued < 1:
            raise ConfigError("max_queued", max_queued, "at least one call must be able to wait")
        self._max_concurrency = max_concurrency
        self._max_queued = max_queued
        self._lock = threading.RLock()
        self._has_work = threading.Condition(self._lock)
        self._has_ended = threading.Condition(self._lock)
        self._queue: deque[_Job[Any]] = deque()
        self._running: set[_Job[Any]] = set()
        self._idle = 0
        self._threads = 0
        self._counts = dict.fromkeys(FATES, 0)
        self._is_closed = False

    @property
    def counts(self) -> Counts:
        """What became of the calls so far."""
        return Counts(**self._counts)

    @property
    def queued(self) -> int:
        """Calls that wait for a place."""
        return sum(not job.future.done() for job in tuple(self._queue))

    async def run(
        self, work: Callable[[], T], *, name: str, timeout_s: float, on_late: Callable[[], object] | None = None
    ) -> T:
        """The result of `work`. Raises AsyncTimeoutError after `timeout_s`, the wait for a place included."""
        job = self._submitted(work, name, timeout_s, on_late)
        timer = asyncio.get_running_loop().call_later(timeout_s, job.expire)
        try:
            return await awaited(job.future)
        finally:
            timer.cancel()
            job.future.cancel()  # where its caller was: it ends now, not when the loop comes round

    def call(
        self, work: Callable[[], T], *, name: str, timeout_s: float, on_late: Callable[[], object] | None = None
    ) -> T:
        """The same for a thread."""
        job = self._submitted(work, name, timeout_s, on_late)
        with suppress(FutureTimeout):
            job.future.exception(timeout_s)
        job.expire()
        return job.future.result()

    def submit(
        self,
        work: Callable[[], T],
        *,
        name: str,
        timeout_s: float | None = None,
        on_late: Callable[[], object] | None = None,
    ) -> Future[T]:
        """Have `work` done; whoever wants may wait for the future, or cancel it.

        Raises BackPressure while as many calls wait as may, and ServiceUnavailable once the worker is closed.
        """
        return self._submitted(work, name, timeout_s, on_late).future

    def close(self, timeout_s: float = 0.0) -> None:
        """Take no more calls, cancel those that wait, and those that run after `timeout_s`; returns at once then."""
        with self._lock:
            self._is_closed = True
            waiting, self._queue = self._queue, deque()
            self._has_work.notify_all()
        for job in waiting:
            job.future.cancel()
        with self._lock:
            self._has_ended.wait_for(lambda: not self._running, timeout_s)
            running = list(self._running)
        for job in running:
            job.future.cancel()

    def _submitted(
        self, work: Callable[[], T], name: str, timeout_s: float | None, on_late: Callable[[], object] | None
    ) -> _Job[T]:
        job = _Job(work=work, name=name, timeout_s=timeout_s, on_late=on_late)
        if timeout_s is not None:
            job.due_s = time.monotonic() + timeout_s
        with self._lock:
            self._count("submitted")
            if self._is_closed:
                self._count("rejected")
                raise ServiceUnavailable("core", "worker", name, "it is closed: this process is ending")
            if len(self._queue) >= self._max_queued:
                self._forget_ended()
            if len(self._queue) >= self._max_queued:
                self._count("rejected")
                raise BackPressure(f"{self._max_queued} calls wait already, as many as may", RETRY_AFTER_S)
            job.future.add_done_callback(partial(self._ended, job))
            self._queue.append(job)
            self._have_a_thread()
            self._has_work.notify()
        return job

    def _have_a_thread(self) -> None:
        if self._idle < len(self._queue) and self._threads < self._max_concurrency:
            self._threads += 1
            self._idle += 1
            threading.Thread(target=self._serve, name="worker", daemon=True).start()

    def _forget_ended(self) -> None:
        """Cancelled and late calls hold no place in the queue."""
        self._queue = deque(job for job in self._queue if not job.future.done())

    def _ended(self, job: _Job[Any], future: Future[Any]) -> None:
        """A call's one end: counted, and what it still waits for is cut."""
        error = None if future.cancelled() else future.exception()
        is_dropped = future.cancelled() or (isinstance(error, AsyncTimeoutError) and job.is_late)
        ending = "cancelled" if future.cancelled() else "timed_out" if is_dropped else "failed" if error else "done"
        with self._lock:
            self._count(ending)
            is_running = job in self._running
            self._running.discard(job)
            self._has_ended.notify_all()
        if is_dropped and is_running and job.on_late is not None:
            job.on_late()

    def _count(self, name: str) -> None:
        self._counts[name] += 1

    def _serve(self) -> None:
        """A thread's life: one call after the other, until there has been none for a while."""
        while (job := self._next()) is not None:
            end = job.made()
            # Before whoever waits is woken: two threads that want the interpreter and one lock are in each other's way.
            with self._lock:
                self._idle += 1
            end()
            del job, end

    def _next(self) -> _Job[Any] | None:
        """The next call to make; None where the thread isn't needed any more."""
        with self._lock:
            while True:
                while self._queue:
                    job = self._queue.popleft()
                    if job.is_late:
                        job.expire()
                    if not job.future.done():
                        self._idle -= 1
                        self._running.add(job)
                        return job
                has_news = not self._is_closed and self._has_work.wait(IDLE_S)
                if not has_news and not self._queue:
                    self._idle -= 1
                    self._threads -= 1
                    return None
