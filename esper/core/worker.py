"""A worker: blocking calls for an event loop, a few at a time, each with a deadline.

No thread can be cancelled: the result of a late call is dropped, and the call keeps its place until it ends. The
threads are daemons, so that a call that never ends, on a hung disk for instance, doesn't keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from esper.core.errors import AsyncTimeoutError, ConfigError

T = TypeVar("T")


class AsyncWorker:
    """Runs at most `max_concurrency` blocking calls of one event loop at a time."""

    def __init__(self, max_concurrency: int = 4) -> None:
        if max_concurrency < 1:
            raise ConfigError("max_concurrency", max_concurrency, "at least one call must be able to run")
        self._places = asyncio.Semaphore(max_concurrency)

    async def run(self, work: Callable[[], T], *, name: str, timeout_s: float) -> T:
        """The result of `work`. Raises AsyncTimeoutError after `timeout_s`, the wait for a place included."""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._places.acquire()
                return await self._started(work, name)
        except TimeoutError as error:
            if limit.expired():
                raise AsyncTimeoutError(name, timeout_s) from error
            raise

    def _started(self, work: Callable[[], T], name: str) -> asyncio.Future[T]:
        """The result to come of `work`, which runs in a thread of its own and gives its place back by itself."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            outcome: Future[T] = Future()
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
                outcome.set_exception(error)
            # Once the loop is closed nobody waits any more, and it refuses the call.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._settle, outcome, result)

        threading.Thread(target=run, name=name, daemon=True).start()
        return result

    def _settle(self, outcome: Future[T], result: asyncio.Future[T]) -> None:
        self._places.release()
        if result.cancelled():
            return
        error = outcome.exception()
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(outcome.result())
