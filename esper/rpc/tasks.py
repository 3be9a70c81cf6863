"""Tasks that live for as long as the call that they serve, whose caller may leave at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def call_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task of a call. Who waits for it gets what it raises; after the caller has gone nobody does.

    asyncio would log a traceback for each such task, which a caller without a token could make come in a flood.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_heard)
    return task


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def until_set(items: AsyncIterator[T], stop: asyncio.Event) -> AsyncIterator[T]:
    """The items, until they end or `stop` is set; an item that is being waited for is given up then.

    Who asks waits itself: a task for each item would cost more than most items do.
    """
    waiting: asyncio.Timeout | None = None

    def give_up(_: asyncio.Task[Any]) -> None:
        if waiting is not None:
            waiting.reschedule(0.0)

    stopping = call_task(stop.wait())
    stopping.add_done_callback(give_up)
    try:
        while not stop.is_set():
            try:
                async with asyncio.timeout(None) as waiting:
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except Exception as error:
                if isinstance(error, TimeoutError) and waiting is not None and waiting.expired():
                    return
                if (asking := asyncio.current_task()) is not None and asking.cancelling():
                    # Its caller has left: what the stream says to that is nobody's.
                    raise asyncio.CancelledError from error
                raise
            finally:
                waiting = None
            yield item
    finally:
        stopping.cancel()
