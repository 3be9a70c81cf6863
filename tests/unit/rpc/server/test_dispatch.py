"""Streams that end with the server: `until_set`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from esper.rpc.server.dispatch import until_set


async def ready(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_without_a_stop_every_item_comes() -> None:
    assert [item async for item in until_set(ready(3), asyncio.Event())] == [0, 1, 2]


async def test_a_stream_that_is_always_ready_ends_too() -> None:
    stop = asyncio.Event()
    seen = []
    async for item in until_set(ready(1000), stop):
        seen.append(item)
        if item == 2:
            stop.set()
    assert seen == [0, 1, 2]


async def test_an_item_that_is_waited_for_is_given_up() -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            closed.set()

    stop = asyncio.Event()
    following = asyncio.ensure_future(anext(until_set(silent(), stop), None))
    await asyncio.sleep(0)
    stop.set()
    assert await asyncio.wait_for(following, 5) is None
    assert closed.is_set()
