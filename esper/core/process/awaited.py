"""What another thread does, awaited: one turn of the event loop from its end to whoever waits for it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def awaited(work: Future[T], and_then: Callable[[T], object] = lambda result: None) -> T:
    """The result of `work`. Whoever waits may be cancelled: then work that has not begun is, too.

    What was done is followed by `and_then` in this loop, also if nobody waits for it any more.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        try:
            if not work.cancelled() and work.exception() is None:
                and_then(work.result())
        finally:
            if not ended.done():
                ended.set_result(None)

    def ended_elsewhere(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(end, context=context)

    work.add_done_callback(ended_elsewhere)
    try:
        await ended
    except asyncio.CancelledError:
        work.cancel()
        raise
    return work.result()
