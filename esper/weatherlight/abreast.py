"""Work on a stream's messages, some of them at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


async def abreast(
    work: Callable[[Given], Awaitable[Made]], given: AsyncIterator[Given], at_once: int
) -> AsyncIterator[Made]:
    """What `work` makes of each message, in their order, with so many under way. The first error ends all."""
    under_way: deque[asyncio.Future[Made]] = deque()
    try:
        async for each in given:
            under_way.append(asyncio.ensure_future(work(each)))
            if len(under_way) == at_once:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for left in under_way:
            left.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
