"""What every bus promises, asked of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import BackPressure, ConfigError
from esper.leyline import BusEnvelope
from esper.oona.bus import Bus, BusConfig
from tests.unit.oona.buses import (
    CRITICAL,
    EMERGENCY_LANE,
    HIGH,
    NORMAL_LANE,
    TELEMETRY_LANE,
    an_envelope,
    redis_bus,
    redis_server_bus,
    sqlite_bus,
)

# Real time passes in Redis's idle times, so leases and waits are short there.
CONFIG = BusConfig(max_deliveries=3, lease_s=1.0, retry_s=0.01, retention_s=100.0, max_lane_entries=5)
BUSES = {"sqlite": sqlite_bus, "redis": redis_bus, "redis server": redis_server_bus}
LANES = (EMERGENCY_LANE, NORMAL_LANE, TELEMETRY_LANE)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Bus]:
    async with BUSES[request.param](tmp_path, clock, CONFIG) as made:
        yield made


def ids(envelopes: list[BusEnvelope]) -> list[str]:
    return [envelope.event_id for envelope in envelopes]


async def fetched_again(bus: Bus, clock: ManualClock, consumer: str = "c1") -> list[BusEnvelope]:
    """What is redelivered once lease and retry wait are over, on the test's clock or on Redis's."""
    clock.advance(10.0)
    async with asyncio.timeout(5):
        while not (found := await bus.fetch("g", consumer, LANES, 10)):
            await asyncio.sleep(0.01)
    return found


async def test_a_known_id_keeps_its_first_position(bus: Bus) -> None:
    first, second = await bus.publish([an_envelope("a"), an_envelope("b")])
    again, third = await bus.publish([an_envelope("a"), an_envelope("c")])
    assert (first.is_new, again.is_new) == (True, False)
    assert again.sequence == first.sequence < second.sequence < third.sequence
    assert ids(await bus.read(LANES, 0, 10)) == ["a", "b", "c"]


async def test_positions_and_bytes_come_back_as_they_were_stored(bus: Bus) -> None:
    sent = an_envelope("a")
    (stored,) = await bus.publish([sent])
    (found,) = await bus.fetch("g", "c1", LANES, 10)
    assert (found.sequence, found.attempt) == (stored.sequence, 1)
    assert (found.payload, found.signature) == (sent.payload, sent.signature)


async def test_every_group_gets_everything_once(bus: Bus) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    for group in ("g", "h"):
        assert ids(await bus.fetch(group, "c1", LANES, 10)) == ["a", "b"]
        assert await bus.fetch(group, "c1", LANES, 10) == []


async def test_consumers_of_a_group_share_the_work(bus: Bus) -> None:
    await bus.publish([an_envelope(name) for name in "abcd"])
    assert ids(await bus.fetch("g", "c1", LANES, 2)) == ["a", "b"]
    assert ids(await bus.fetch("g", "c2", LANES, 10)) == ["c", "d"]


async def test_urgent_lanes_and_urgent_envelopes_go_first(bus: Bus) -> None:
    await bus.publish(
        [
            an_envelope("n1"),
            an_envelope("t1", TELEMETRY_LANE),
            an_envelope("h1", NORMAL_LANE, HIGH),
            an_envelope("e1", EMERGENCY_LANE, CRITICAL),
        ]
    )
    assert ids(await bus.fetch("g", "c1", LANES, 10)) == ["e1", "h1", "n1", "t1"]


async def test_only_the_lanes_asked_for_are_delivered(bus: Bus) -> None:
    await bus.publish([an_envelope("n1"), an_envelope("t1", TELEMETRY_LANE)])
    assert ids(await bus.fetch("g", "c1", [TELEMETRY_LANE], 10)) == ["t1"]
    assert ids(await bus.fetch("g", "c1", [NORMAL_LANE], 10)) == ["n1"]


async def test_what_was_acknowledged_never_comes_again(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await bus.fetch("g", "c1", LANES, 10)
    await bus.acknowledge("g", ["a"])
    assert ids(await fetched_again(bus, clock)) == ["b"]


async def test_what_a_dead_consumer_held_goes_to_another(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("a")])
    await bus.fetch("g", "dead", LANES, 10)
    (found,) = await fetched_again(bus, clock, "alive")
    assert (found.event_id, found.attempt) == ("a", 2)


async def test_what_a_leaving_consumer_held_goes_to_another_at_once(bus: Bus) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await bus.fetch("g", "leaving", LANES, 10)
    await bus.release("g", "leaving")
    assert ids(await bus.fetch("g", "other", LANES, 10)) == ["a", "b"]


async def test_after_too_many_deliveries_an_envelope_is_put_aside(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("poison")])
    attempts = [(await bus.fetch("g", "c1", LANES, 10))[0].attempt]
    for _ in range(CONFIG.max_deliveries - 1):
        await bus.reject("g", ["poison"])
        attempts.append((await fetched_again(bus, clock))[0].attempt)
    assert attempts == [1, 2, 3]
    await bus.reject("g", ["poison"])
    await bus.publish([an_envelope("next")])
    clock.advance(10.0)
    async with asyncio.timeout(5):
        while not await bus.dead_letter_count():
            assert "poison" not in ids(await bus.fetch("g", "c1", LANES, 10))
            await asyncio.sleep(0.01)
    assert await bus.dead_letter_count() == 1


async def test_a_full_lane_refuses_more_but_emergencies_always_fit(bus: Bus) -> None:
    await bus.publish([an_envelope(f"t{number}", TELEMETRY_LANE) for number in range(5)])
    with pytest.raises(BackPressure, match="holds 5 envelopes"):
        await bus.publish([an_envelope("t5", TELEMETRY_LANE)])
    await bus.publish([an_envelope(f"e{number}", EMERGENCY_LANE, CRITICAL) for number in range(9)])
    assert len(await bus.read([EMERGENCY_LANE], 0, 100)) == 9


async def test_depth_counts_what_the_slowest_group_has_not_handled(bus: Bus) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b"), an_envelope("c")])
    await bus.fetch("quick", "c1", LANES, 10)
    await bus.acknowledge("quick", ["a", "b", "c"])
    assert await bus.depth(NORMAL_LANE) == 0
    await bus.fetch("slow", "c1", LANES, 2)
    assert await bus.depth(NORMAL_LANE) == 3
    await bus.acknowledge("slow", ["a"])
    assert await bus.depth(NORMAL_LANE) == 2
    assert await bus.depth(TELEMETRY_LANE) == 0


async def test_a_trim_takes_only_what_is_old_and_handled_by_all(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await bus.fetch("g", "c1", LANES, 10)
    await bus.acknowledge("g", ["a"])
    assert await bus.trim() == 0
    clock.advance(101.0)
    await bus.publish([an_envelope("c")])
    assert await bus.trim() == 1
    assert ids(await bus.read(LANES, 0, 10)) == ["b", "c"]


async def test_a_trim_keeps_no_more_of_what_was_handled_than_it_may(tmp_path: Path, clock: ManualClock) -> None:
    config = BusConfig(max_kept_entries=2)
    for number, made in enumerate(BUSES.values()):
        (tmp_path / str(number)).mkdir()
        async with made(tmp_path / str(number), clock, config) as bus:
            await bus.publish([an_envelope(name) for name in "abcde"])
            assert len(await bus.fetch("g", "c1", LANES, 4)) == 4
            await bus.acknowledge("g", ["b", "c", "d"])
            await bus.acknowledge("g", ["a"])
            assert await bus.trim() == 3
            assert ids(await bus.read(LANES, 0, 10)) == ["d", "e"]
            assert await bus.trim() == 0


async def test_a_trim_takes_nothing_that_somebody_still_needs(bus: Bus) -> None:
    await bus.publish([an_envelope(name) for name in "abcde"])
    await bus.fetch("g", "c1", LANES, 3)
    assert await bus.trim() == 0


async def test_a_reader_goes_on_from_any_position(bus: Bus) -> None:
    stored = await bus.publish([an_envelope("a"), an_envelope("b", TELEMETRY_LANE), an_envelope("c")])
    assert ids(await bus.read(LANES, stored[0].sequence, 10)) == ["b", "c"]
    assert ids(await bus.read([NORMAL_LANE], 0, 1)) == ["a"]
    assert await bus.last_sequence() == stored[2].sequence


async def test_waiting_ends_with_the_next_publication(bus: Bus) -> None:
    (stored,) = await bus.publish([an_envelope("a")])
    async with asyncio.timeout(10):
        await bus.wait(stored.sequence - 1, 60.0)
        waiting = asyncio.create_task(bus.wait(stored.sequence, 60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        await bus.publish([an_envelope("b")])
        await waiting


async def test_waiting_for_nothing_ends_too(bus: Bus) -> None:
    async with asyncio.timeout(10):
        await bus.wait(await bus.last_sequence(), 0.01)


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_deliveries"):
        BusConfig(max_deliveries=0)
