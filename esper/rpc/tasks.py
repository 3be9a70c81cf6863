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
    """The items, until they end or `stop` is set; an item that is being waited for is given up then."""
    stopping = call_task(stop.wait())
    try:
        while not stop.is_set():
            coming = call_task(_next(items))
            try:
                await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming})
            if coming.cancelled():
                return
            for item in coming.result():
                yield item
            if not coming.result():
                return
    finally:
        stopping.cancel()


async def _next(items: AsyncIterator[T]) -> tuple[T, ...]:
    """The next item, or nothing at the end: a future can't hold StopAsyncIteration."""
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return ()
