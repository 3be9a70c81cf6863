"""Who follows lanes gets every page once, and asks for nothing while nothing comes; the embedded log and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.leyline import BusEnvelope, BusLane, MessagePriority
from esper.oona.bus import LEAST, Bus, BusConfig
from esper.oona.following import followed
from tests.unit.oona.buses import NORMAL_LANE, TELEMETRY_LANE, an_envelope, redis_bus, sqlite_bus

BUSES = {"sqlite": sqlite_bus, "redis": redis_bus}
LANES = (NORMAL_LANE,)
LONG_S = 60.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Bus]:
    async with BUSES[request.param](tmp_path, clock, BusConfig(retention_s=100.0)) as made:
        yield made


@pytest.fixture
def reads(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions after which the bus was asked; far too many end the test."""
    asked, read = list[int](), bus.read

    async def counted(
        lanes: Sequence[BusLane], after: int, limit: int, least: MessagePriority = LEAST
    ) -> list[BusEnvelope]:
        asked.append(after)
        assert len(asked) < 20, f"asked again and again: {asked}"
        return await read(lanes, after, limit, least)

    monkeypatch.setattr(bus, "read", counted)
    return asked


async def taken(pages: AsyncIterator[list[BusEnvelope]], count: int) -> list[str]:
    found = list[str]()
    async with asyncio.timeout(30):
        while len(found) < count:
            found += [envelope.event_id for envelope in await anext(pages)]
    return found


async def test_pages_come_in_order_and_what_comes_later_is_heard_of(bus: Bus, reads: list[int]) -> None:
    stored = await bus.publish([an_envelope("a"), an_envelope("b"), an_envelope("other", TELEMETRY_LANE)])
    pages = followed(bus, LANES, stored[0].sequence - 1, 1, LONG_S)
    assert await taken(pages, 2) == ["a", "b"]
    more = asyncio.create_task(taken(pages, 1))
    await asyncio.sleep(0.05)
    await bus.publish([an_envelope("c")])
    assert await more == ["c"]


async def test_a_page_costs_one_question(bus: Bus, reads: list[int]) -> None:
    (first,) = await bus.publish([an_envelope("a")])
    pages = followed(bus, LANES, first.sequence - 1, 10, LONG_S)
    assert await taken(pages, 1) == ["a"]
    more = asyncio.create_task(taken(pages, 1))
    await asyncio.sleep(0.05)
    await bus.publish([an_envelope("b")])
    await more
    assert reads == [first.sequence - 1, first.sequence]


async def test_who_begins_before_what_was_forgotten_waits_for_what_is_new(
    bus: Bus, reads: list[int], clock: ManualClock
) -> None:
    (first,) = await bus.publish([an_envelope("a")])
    await bus.fetch("g", "c", LANES, 10)
    await bus.acknowledge("g", ["a"])
    clock.advance(1000.0)
    assert await bus.trim() == 1
    waiting = asyncio.create_task(taken(followed(bus, LANES, first.sequence - 1, 10, LONG_S), 1))
    await asyncio.sleep(0.05)
    await bus.publish([an_envelope("b")])
    assert await waiting == ["b"]
