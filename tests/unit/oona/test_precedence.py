"""Normal work goes a slice a turn, and gives way to urgent work, though not for ever."""

from __future__ import annotations

import asyncio

import pytest

from esper.oona import precedence as module
from esper.oona.precedence import SLICE, Precedence


async def worked(precedence: Precedence, name: str, count: int, done: list[str]) -> None:
    async for some in precedence.slices(range(count * SLICE)):
        assert len(some) == SLICE
        done.append(name)


async def test_every_item_comes_once_and_in_order() -> None:
    items = range(2 * SLICE + 3)
    assert [item async for some in Precedence().slices(items) for item in some] == list(items)
    assert [some async for some in Precedence().slices(())] == []


async def test_one_slice_a_turn_is_done_however_many_bring_work() -> None:
    precedence, done = Precedence(), list[str]()
    work = [asyncio.create_task(worked(precedence, str(number), 4, done)) for number in range(8)]
    before = 0
    while not all(task.done() for task in work):
        await asyncio.sleep(0)
        assert len(done) - before <= 1
        before = len(done)
    assert len(done) == 32
    assert set(done[:8]) == {str(number) for number in range(8)}  # in turns, nobody last


async def test_nothing_normal_is_done_while_urgent_work_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 60.0)
    precedence, done = Precedence(), list[str]()
    with precedence.urgent():
        with precedence.urgent():
            work = asyncio.create_task(worked(precedence, "normal", 3, done))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert done == []
    await work
    assert done == ["normal"] * 3


async def test_urgent_work_that_never_ends_slows_normal_work_and_does_not_stop_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.001)
    precedence, done = Precedence(), list[str]()
    with precedence.urgent():
        await worked(precedence, "normal", 3, done)
    assert done == ["normal"] * 3
