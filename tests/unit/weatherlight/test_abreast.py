"""Messages are worked on some at a time, answered in order, and an error leaves nothing under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from esper.weatherlight.abreast import abreast


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


class Work:
    """Ends for a number when the test lets it."""

    def __init__(self, count: int) -> None:
        self.under_way: set[int] = set()
        self.most = 0
        self.gates = [asyncio.Event() for _ in range(count)]

    async def do(self, number: int) -> int:
        self.under_way.add(number)
        self.most = max(self.most, len(self.under_way))
        try:
            await self.gates[number].wait()
        finally:
            self.under_way.discard(number)
        if number == 3:
            raise ValueError("three")
        return number


async def test_so_many_are_under_way_and_answers_keep_their_order() -> None:
    work = Work(3)
    results: list[int] = []

    async def collect() -> None:
        async for each in abreast(work.do, numbers(3), 2):
            results.append(each)

    collecting = asyncio.create_task(collect())
    for gate in (1, 0, 2):
        await asyncio.sleep(0.01)
        work.gates[gate].set()
    async with asyncio.timeout(10):
        await collecting
    assert (results, work.most) == ([0, 1, 2], 2)


async def test_an_error_ends_all() -> None:
    work = Work(6)
    for number in (0, 1, 2, 3):
        work.gates[number].set()
    results: list[int] = []

    async def collect() -> None:
        async for each in abreast(work.do, numbers(6), 3):
            results.append(each)

    with pytest.raises(ValueError, match="three"):
        await collect()
    assert (results, work.under_way) == ([0, 1, 2], set())
