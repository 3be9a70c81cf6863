"""Streams that end with the server, or with their call: `until_set`."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from esper.core.errors import AccessDenied
from esper.rpc.tasks import until_set


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


@pytest.mark.parametrize("turns", range(6))
async def test_what_a_stream_raises_while_its_caller_leaves_is_no_error_of_the_process(turns: int) -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    async def refused() -> AsyncIterator[int]:
        try:
            await asyncio.sleep(0)
        finally:
            raise AccessDenied("nobody may")
        yield 1

    following = asyncio.create_task(_listed(until_set(refused(), asyncio.Event())))
    for _ in range(turns):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait({following})
    del following  # what it held is collected, and then asyncio tells of a task that nobody asked
    gc.collect()
    assert not told


async def _listed(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]
