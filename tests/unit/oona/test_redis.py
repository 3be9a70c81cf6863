"""The Redis bus after a kill: every id stands once, and nothing is left that nobody can acknowledge."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis.asyncio as redis

from esper.core.clock import ManualClock
from esper.leyline import BusEnvelope
from esper.oona.bus import BusConfig
from esper.oona.redis import COUNTER, RedisBus
from tests.unit.oona.buses import NORMAL_LANE, an_envelope
from tests.unit.oona.redis_server import redis_server

CONFIG = BusConfig(max_deliveries=2, lease_s=0.05, retry_s=0.01, retention_s=100.0)
STREAM = "oona.normal"
KILLS_S = (0.05, 0.15)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as found:
        yield found


@pytest.fixture(params=["fake", "server"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A client of an empty Redis."""
    made = fakeredis.FakeAsyncRedis() if request.param == "fake" else redis.from_url(request.getfixturevalue("url"))
    await made.flushall()
    yield made
    await made.aclose()


@pytest.fixture
def bus(client: Any) -> RedisBus:
    return RedisBus(client, CONFIG, ManualClock())


async def left_by_a_kill(client: Any, envelope: BusEnvelope) -> None:
    """An entry whose publisher ended before it wrote the id down, as versions without transactions left them."""
    sequence = await client.incr(COUNTER)
    await client.xadd(STREAM, {b"e": envelope.SerializeToString(), b"ms": 0}, id=f"{sequence}-0")


def ids(envelopes: list[BusEnvelope]) -> list[str]:
    return [envelope.event_id for envelope in envelopes]


async def handle_all(bus: RedisBus) -> list[str]:
    """What a consumer gets that acknowledges everything, until nothing comes for several leases."""
    handled: list[str] = []
    for _ in range(6):
        found = await bus.fetch("g", "c", [NORMAL_LANE], 100)
        handled += ids(found)
        await bus.acknowledge("g", ids(found))
        await asyncio.sleep(CONFIG.lease_s)
    return handled


async def test_a_duplicate_that_a_kill_left_is_delivered_once_and_never_becomes_a_dead_letter(
    client: Any, bus: RedisBus
) -> None:
    await left_by_a_kill(client, an_envelope("a"))
    await bus.publish([an_envelope("a"), an_envelope("b")])
    assert sorted(await handle_all(bus)) == ["a", "b"]
    assert await bus.dead_letter_count() == 0
    assert await bus.depth(NORMAL_LANE) == 0


async def test_a_duplicate_that_was_delivered_before_can_be_acknowledged_after_all(client: Any, bus: RedisBus) -> None:
    await left_by_a_kill(client, an_envelope("a"))
    await client.xgroup_create(STREAM, "g", id="0")
    await client.xreadgroup("g", "gone", {STREAM: ">"})
    await bus.publish([an_envelope("a")])
    assert await handle_all(bus) == ["a"]
    assert await bus.dead_letter_count() == 0
    assert await bus.depth(NORMAL_LANE) == 0


async def test_an_entry_without_an_id_is_delivered_and_its_publisher_is_told_that_it_stands(
    client: Any, bus: RedisBus
) -> None:
    await left_by_a_kill(client, an_envelope("a"))
    assert await handle_all(bus) == ["a"]
    (stored,) = await bus.publish([an_envelope("a")])
    assert (stored.sequence, stored.is_new) == (1, False)
    assert await handle_all(bus) == []


async def test_a_publication_is_there_whole_or_not_at_all(client: Any, bus: RedisBus) -> None:
    await bus.publish([an_envelope("a")])
    names = {key.decode() for key in await client.keys("*")}
    assert names == {COUNTER, STREAM, "oona.event:a"}
    assert int(await client.get(COUNTER)) == await client.xlen(STREAM) == 1


async def test_publishers_of_one_server_get_positions_of_their_own(client: Any) -> None:
    buses = [RedisBus(client, CONFIG, ManualClock()) for _ in range(3)]
    stored = await asyncio.gather(
        *(each.publish([an_envelope(f"{place}-{n}") for n in range(20)]) for place, each in enumerate(buses))
    )
    positions = [entry.sequence for answers in stored for entry in answers]
    assert len(set(positions)) == len(positions) == 60
    assert all(entry.is_new for answers in stored for entry in answers)


async def test_a_counter_that_was_lost_goes_on_behind_the_last_entry(client: Any, bus: RedisBus) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await client.delete(COUNTER)
    (stored,) = await bus.publish([an_envelope("c")])
    assert stored.sequence == 3
    assert ids(await bus.read([NORMAL_LANE], 0, 10)) == ["a", "b", "c"]


async def test_after_kills_at_any_moment_every_id_stands_once(url: str) -> None:
    client = redis.from_url(url)
    await client.flushall()
    bus = RedisBus(client, CONFIG, ManualClock())
    for kill_s in KILLS_S:
        await asyncio.to_thread(publish_and_kill, url, kill_s)
    await bus.publish([an_envelope(f"e{number}") for number in range(50)])
    published = ids(await bus.read([NORMAL_LANE], 0, 100_000))
    assert len(set(published)) == len(published) >= 50
    assert sorted(await handle_all_of(bus, len(published))) == sorted(published)
    assert await bus.dead_letter_count() == 0
    await bus.close()


def publish_and_kill(url: str, after_s: float) -> None:
    command = [sys.executable, "-m", "tests.unit.oona.redis_publisher", url, "100000"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env={**os.environ}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()


async def handle_all_of(bus: RedisBus, count: int) -> list[str]:
    handled: list[str] = []
    while len(handled) < count:
        found = await bus.fetch("g", "c", [NORMAL_LANE], 1000)
        assert found
        handled += ids(found)
        await bus.acknowledge("g", ids(found))
    return handled + await handle_all(bus)
