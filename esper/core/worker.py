"""A worker: one thread with one event loop that runs coroutines and blocking calls for synchronous code.

At most `max_concurrency` tasks run at a time; a task's timeout counts from its submission. Every handle is resolved,
whatever happens, and `close` returns as soon as the tasks have ended, at the latest after `shutdown_timeout_s`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from esper.core.errors import AsyncTimeoutError, ConfigError, EsperError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Limits of a worker."""

    max_concurrency: int = 4  # tasks that run at a time
    shutdown_timeout_s: float = 5.0  # longest wait for tasks that don't end when they are cancelled

    def __post_init__(self) -> None:
        if self.max_concurrency < 1:
            raise ConfigError("max_concurrency", self.max_concurrency, "at least 1 task must be able to run")
        if self.shutdown_timeout_s <= 0:
            raise ConfigError("shutdown_timeout_s", self.shutdown_timeout_s, "give a time above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStats:
    """Tasks since the start; `submitted` is the sum of the others and of what is under way."""

    submitted: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int


class AsyncWorker:
    """Runs tasks until it is closed. Use it as a context manager; it has no finaliser."""

    def __init__(self, config: WorkerConfig | None = None, *, name: str = "worker") -> None:
        self._config = config or WorkerConfig()
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(self._config.max_concurrency)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._open_handles: set[Future[Any]] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Awaitable[T]], *, name: str, timeout_s: float) -> Future[T]:
        """Run the coroutine that `work` makes; after `timeout_s` it is cancelled: AsyncTimeoutError."""
        return self._submit(self._timed(lambda: self._in_slot(work), name, timeout_s))

    def submit_blocking(self, work: Callable[[], T], *, name: str, timeout_s: float) -> Future[T]:
        """Run a blocking call in a thread; no thread can be cancelled, so a late one keeps its slot until it ends."""

        async def run() -> T:
            return await asyncio.shield(self._in_slot(lambda: _in_thread(work, name)))

        return self._submit(self._timed(run, name, timeout_s))

    def stats(self) -> WorkerStats:
        """Counts now."""
        with self._lock:
            counts = dict(self._counts)
        names = ("submitted", "completed", "failed", "timed_out", "cancelled")
        return WorkerStats(**{name: counts.get(name, 0) for name in names})

    def close(self) -> None:
        """Cancel what is under way, resolve every handle and end the thread. Closing twice is harmless."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            handles = tuple(self._open_handles)
        patience_s = self._config.shutdown_timeout_s
        self._loop.call_soon_threadsafe(_cancel_tasks, self._loop)
        wait(handles, timeout=patience_s)
        # What is left doesn't end when it is cancelled, or blocks the loop; its handle is resolved all the same.
        for handle in handles:
            handle.cancel()
        # The loop is stopped from here: a coroutine that stops its own loop is never seen to end.
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patience_s)

    def __enter__(self) -> AsyncWorker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _submit(self, task: Any) -> Future[Any]:
        with self._lock:
            if self._is_closed:
                task.close()
                raise EsperError("the worker is closed")
            self._counts["submitted"] += 1
            handle = asyncio.run_coroutine_threadsafe(task, self._loop)
            self._open_handles.add(handle)
        handle.add_done_callback(self._count)
        return handle

    def _count(self, handle: Future[Any]) -> None:
        if handle.cancelled():
            end = "cancelled"
        elif handle.exception() is None:
            end = "completed"
        else:
            end = "timed_out" if isinstance(handle.exception(), AsyncTimeoutError) else "failed"
        with self._lock:
            self._counts[end] += 1
            self._open_handles.discard(handle)

    async def _in_slot(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            return await work()

    async def _timed(self, work: Callable[[], Awaitable[T]], name: str, timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await work()
        except TimeoutError as error:
            if limit.expired():
                raise AsyncTimeoutError(name, timeout_s) from error
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


async def _in_thread(work: Callable[[], T], name: str) -> T:
    """The result of `work` from a thread of its own, which never keeps the interpreter from ending."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        outcome: Future[T] = Future()
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the caller who waits for the handle gets it
            outcome.set_exception(error)
        # After a close nobody waits any more, and the loop refuses the call.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_copy, outcome, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await result


def _copy(outcome: Future[T], result: asyncio.Future[T]) -> None:
    if result.cancelled():
        return
    error = outcome.exception()
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(outcome.result())
