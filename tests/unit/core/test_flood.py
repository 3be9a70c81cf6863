"""Events that come in floods: told one by one at first, counted to the last."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.clock import SYSTEM_CLOCK, ManualClock
from esper.core.flood import Flood


async def test_the_first_of_a_window_are_told_singly_and_the_rest_as_a_count() -> None:
    held: list[tuple[str, int]] = []
    clock = ManualClock(now_ns=0)
    flood = Flood[str](clock, lambda kind, count: held.append((kind, count)), window_s=1.0, told_singly=2)
    assert [flood.admits("a") for _ in range(5)] == [True, True, False, False, False]
    assert flood.admits("b")
    assert not held
    clock.advance(1.0)
    assert flood.admits("a")
    assert held == [("a", 3)]
    flood.flush()
    assert held == [("a", 3)]


async def test_a_flood_that_ends_is_told_without_another_event() -> None:
    told = asyncio.Event()
    held: list[int] = []

    def tell(_: str, count: int) -> None:
        held.append(count)
        told.set()

    flood = Flood[str](SYSTEM_CLOCK, tell, window_s=0.01, told_singly=1)
    assert [flood.admits("a") for _ in range(3)] == [True, False, False]
    async with asyncio.timeout(10):
        await told.wait()
    assert held == [2]


async def test_a_window_ends_by_the_clock_that_was_given_however_long_the_events_take() -> None:
    clock, held = ManualClock(now_ns=0), list[int]()
    flood = Flood[str](clock, lambda kind, count: held.append(count), window_s=0.001, told_singly=1)
    assert [flood.admits("a") for _ in range(2)] == [True, False]
    for _ in range(10):
        await asyncio.sleep(0.002)  # the loop's clock goes on, ours stands
    assert not flood.admits("a")
    assert not held
    clock.advance(0.001)
    async with asyncio.timeout(10):
        while not held:
            await asyncio.sleep(0.001)
    assert held == [2]


@pytest.mark.parametrize("told_singly", [1, 3])
@given(waits_s=st.lists(st.sampled_from([0.0, 0.3, 0.9, 1.1]), max_size=30), kinds=st.data())
def test_every_event_is_told_or_counted_once(told_singly: int, waits_s: list[float], kinds: st.DataObject) -> None:
    async def course() -> None:
        seen: Counter[str] = Counter()
        came: Counter[str] = Counter()
        clock = ManualClock(now_ns=0)
        flood = Flood[str](clock, lambda kind, count: seen.update({kind: count}), told_singly=told_singly)
        for wait_s in waits_s:
            clock.advance(wait_s)
            kind = kinds.draw(st.sampled_from("ab"))
            came[kind] += 1
            is_told = flood.admits(kind)
            seen[kind] += is_told
        flood.flush()
        assert +seen == came

    asyncio.run(course())
