"""The bus on Redis beyond the common promises: kills of server and publishers, its keys, and other publishers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from esper.core.clock import ManualClock
from esper.core.errors import BackPressure, ServiceUnavailable
from esper.leyline import BusEnvelope
from esper.oona.bus import MIB, BusConfig
from esper.oona.redis import COUNTER, PLACES, SIZES, RedisBus
from tests.unit.oona.buses import NORMAL_LANE, an_envelope
from tests.unit.oona.redis_server import running
from tools.harness.faults.redis_server import RedisServer

CONFIG = BusConfig(max_deliveries=2, lease_s=0.05, retry_s=0.01, retention_s=100.0)
KILLS_S = (0.05, 0.15)


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """A client of an empty Redis."""
    made = redis.from_url(running().url)
    await made.flushall()
    yield made
    await made.aclose()


@pytest.fixture
def bus(client: Any) -> RedisBus:
    return RedisBus(client, CONFIG, ManualClock())


def ids(envelopes: list[BusEnvelope]) -> list[str]:
    return [envelope.event_id for envelope in envelopes]


async def handle_all(bus: RedisBus) -> list[str]:
    """What a consumer gets that acknowledges everything, until nothing comes for several leases."""
    handled: list[str] = []
    for _ in range(6):
        while found := await bus.fetch("g", "c", [NORMAL_LANE], 1000):
            handled += ids(found)
            await bus.acknowledge("g", ids(found))
        await asyncio.sleep(CONFIG.lease_s)
    return handled


async def test_a_publication_is_there_whole_or_not_at_all(client: Any, bus: RedisBus) -> None:
    await bus.publish([an_envelope("a")])
    stream = "{oona}.normal.2"
    assert {key.decode() for key in await client.keys("*")} == {COUNTER, PLACES, SIZES, stream}
    assert int(await client.get(COUNTER)) == await client.xlen(stream) == await client.hlen(PLACES) == 1


async def test_every_key_is_in_one_slot_of_a_cluster(client: Any, bus: RedisBus) -> None:
    await bus.publish([an_envelope(name) for name in "ab"])
    for _ in range(CONFIG.max_deliveries + 1):
        await bus.fetch("g", "c", [NORMAL_LANE], 1)
        await asyncio.sleep(2 * CONFIG.lease_s)
    assert await bus.dead_letter_count() == 1
    assert {key.partition(b".")[0] for key in await client.keys("*")} == {b"{oona}"}


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


async def test_bytes_that_nobody_counted_are_counted_when_they_are_needed(client: Any) -> None:
    config = BusConfig(max_lane_bytes=16 * MIB)
    bus = RedisBus(client, config, ManualClock())
    await bus.publish([an_envelope(f"e{number}", more_bytes=2 * MIB) for number in range(7)])
    await client.delete(SIZES)  # as another version left it
    with pytest.raises(BackPressure, match="BUS_LANE_NORMAL holds 14 of 16 MiB"):
        await bus.publish([an_envelope("more", more_bytes=2 * MIB)])
    await bus.fetch("g", "c", [NORMAL_LANE], 10)
    await bus.acknowledge("g", [f"e{number}" for number in range(7)])
    await client.delete(SIZES)
    assert await bus.trim() == 4
    await bus.publish([an_envelope("more", more_bytes=2 * MIB)])


async def test_a_server_that_was_killed_goes_on_where_it_was(client: Any) -> None:
    with RedisServer() as server:
        bus = RedisBus(redis.from_url(server.url), CONFIG, ManualClock())
        await bus.publish([an_envelope("a"), an_envelope("b")])
        await bus.fetch("g", "c", [NORMAL_LANE], 1)
        await bus.acknowledge("g", ["a"])
        await asyncio.to_thread(server.kill)
        with pytest.raises(ServiceUnavailable, match=r"publish failed: .*[^.]; see that Redis runs"):
            await bus.publish([an_envelope("c")])
        await asyncio.to_thread(server.start)
        assert [stored.is_new for stored in await bus.publish([an_envelope("b"), an_envelope("c")])] == [False, True]
        assert await handle_all(bus) == ["b", "c"]
        await bus.close()


async def test_after_kills_at_any_moment_every_id_stands_once(client: Any, bus: RedisBus) -> None:
    for kill_s in KILLS_S:
        await asyncio.to_thread(publish_and_kill, running().url, kill_s)
    await bus.publish([an_envelope(f"e{number}") for number in range(50)])
    published = ids(await bus.read([NORMAL_LANE], 0, 100_000))
    assert len(set(published)) == len(published) >= 50
    assert sorted(await handle_all(bus)) == sorted(published)
    assert await bus.dead_letter_count() == 0


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
