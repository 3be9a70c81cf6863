"""What every bus promises, asked of each: the embedded log, a Redis server, and a Redis cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import BackPressure, ConfigError
from esper.leyline import BusEnvelope
from esper.oona.bus import MIB, Bus, BusConfig
from esper.oona.following import followed
from tests.unit.oona.buses import (
    CRITICAL,
    EMERGENCY_LANE,
    HIGH,
    LOW,
    NORMAL,
    NORMAL_LANE,
    TELEMETRY_LANE,
    an_envelope,
    redis_bus,
    redis_cluster_bus,
    sqlite_bus,
)

# Real time passes in Redis's idle times, so leases and waits are short there.
CONFIG = BusConfig(max_deliveries=3, lease_s=1.0, retry_s=0.01, retention_s=100.0, max_lane_entries=5)
SMALL = replace(CONFIG, max_lane_entries=100, max_lane_bytes=16 * MIB)
BUSES = {"sqlite": sqlite_bus, "redis": redis_bus, "redis cluster": redis_cluster_bus}
LANES = (EMERGENCY_LANE, NORMAL_LANE, TELEMETRY_LANE)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Bus]:
    async with BUSES[request.param](tmp_path, clock, CONFIG) as made:
        yield made


@pytest.fixture(params=BUSES)
async def small(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Bus]:
    """One whose lanes hold seven large envelopes each."""
    async with BUSES[request.param](tmp_path, clock, SMALL) as made:
        yield made


def large(name: str, lane: int = NORMAL_LANE, priority: int = NORMAL) -> BusEnvelope:
    return an_envelope(name, lane, priority, more_bytes=2 * MIB)


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


async def test_each_of_the_four_priorities_goes_before_the_next(bus: Bus) -> None:
    given = (("l", LOW), ("n", NORMAL), ("h", HIGH), ("c", CRITICAL))
    await bus.publish([an_envelope(name, NORMAL_LANE, priority) for name, priority in given])
    assert ids(await bus.fetch("g", "c1", LANES, 3)) == ["c", "h", "n"]
    assert ids(await bus.fetch("g", "c1", LANES, 3)) == ["l"]


async def test_what_is_due_again_goes_before_its_equals_and_after_what_is_more_urgent(bus: Bus) -> None:
    await bus.publish([an_envelope("n1")])
    await bus.fetch("g", "leaving", LANES, 1)
    await bus.release("g", "leaving")
    await bus.publish([an_envelope("n2"), an_envelope("h", NORMAL_LANE, HIGH), an_envelope("e", EMERGENCY_LANE)])
    assert ids(await bus.fetch("g", "c1", LANES, 2)) == ["e", "h"]
    assert [(each.event_id, each.attempt) for each in await bus.fetch("g", "c1", LANES, 9)] == [("n1", 2), ("n2", 1)]


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
    assert await letters(bus) == [("g", "poison")]


async def dead(bus: Bus, clock: ManualClock, *names: str, group: str = "g") -> None:
    """These are put aside by the group."""
    for _ in range(CONFIG.max_deliveries):
        found: set[str] = set()
        async with asyncio.timeout(5):
            while found != set(names):
                found |= set(ids(await bus.fetch(group, "c1", LANES, 10)))
        await bus.reject(group, names)
        clock.advance(10.0)
        await asyncio.sleep(5 * CONFIG.retry_s)
    assert await bus.fetch(group, "c1", LANES, 10) == []


async def letters(bus: Bus, group: str | None = None) -> list[tuple[str, str]]:
    return [(letter.group, letter.envelope.event_id) async for letter in bus.dead_letters(group)]


async def test_dead_letters_are_told_with_their_group_and_their_time(bus: Bus, clock: ManualClock) -> None:
    stored = await bus.publish([an_envelope("a"), an_envelope("b")])
    await dead(bus, clock, "a", "b")
    await dead(bus, clock, "a", "b", group="h")
    assert await letters(bus) == [("g", "a"), ("g", "b"), ("h", "a"), ("h", "b")]
    assert await letters(bus, "h") == [("h", "a"), ("h", "b")]
    assert await letters(bus, "k") == []
    (found, *_) = [letter async for letter in bus.dead_letters("h")]
    assert (found.envelope.sequence, found.stored_ns // 10**6) == (stored[0].sequence, clock.now_ns() // 10**6)


async def test_a_requeued_letter_comes_to_its_group_alone_and_with_all_its_tries(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await dead(bus, clock, "a", "b")
    await bus.fetch("other", "c1", LANES, 10)
    await bus.acknowledge("other", ["a", "b"])
    assert await bus.requeue("g", ["a", "unknown"]) == ["a"]
    assert await bus.requeue("other", ["b"]) == []
    assert [(each.event_id, each.attempt) for each in await bus.fetch("g", "c1", LANES, 10)] == [("a", 1)]
    assert await bus.fetch("other", "c1", LANES, 10) == []
    assert await letters(bus) == [("g", "b")]
    await bus.acknowledge("g", ["a"])
    await bus.release("g", "c1")
    assert await bus.fetch("g", "c1", LANES, 10) == []


async def test_a_dropped_letter_is_gone(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await dead(bus, clock, "a", "b")
    assert await bus.drop("g", ["b", "unknown"]) == ["b"]
    assert await bus.drop("g", ["b"]) == await bus.requeue("g", ["b"]) == []
    assert await letters(bus) == [("g", "a")]
    assert await bus.fetch("g", "c1", LANES, 10) == []


async def test_a_letter_can_be_requeued_when_its_envelope_is_old(bus: Bus, clock: ManualClock) -> None:
    await bus.publish([an_envelope("a")])
    await dead(bus, clock, "a")
    await bus.publish([an_envelope("b")])
    await bus.fetch("g", "c1", LANES, 10)
    await bus.acknowledge("g", ["b"])
    clock.advance(101.0)
    assert await bus.trim() >= 1
    assert await letters(bus) == [("g", "a")]
    assert await bus.requeue("g", ["a"]) == ["a"]
    (found,) = await bus.fetch("g", "c1", LANES, 10)
    assert (found.event_id, found.payload) == ("a", an_envelope("a").payload)
    await bus.acknowledge("g", ["a"])
    await bus.trim()
    assert ids(await bus.read(LANES, 0, 10)) == []


async def test_dead_letters_are_kept_by_age_and_by_number(tmp_path: Path, clock: ManualClock) -> None:
    config = replace(CONFIG, max_dead_letters=2, dead_retention_s=50.0)
    for number, made in enumerate(BUSES.values()):
        (tmp_path / str(number)).mkdir()
        async with made(tmp_path / str(number), clock, config) as bus:
            await bus.publish([an_envelope(name) for name in "abc"])
            await dead(bus, clock, "a", "b", "c")
            await bus.trim()
            assert await letters(bus) == [("g", "b"), ("g", "c")]
            clock.advance(51.0)
            await bus.trim()
            assert await letters(bus) == []


async def test_a_full_lane_refuses_more_but_what_is_critical_always_fits(bus: Bus) -> None:
    await bus.publish([an_envelope(f"t{number}", TELEMETRY_LANE) for number in range(5)])
    with pytest.raises(BackPressure, match="BUS_LANE_TELEMETRY holds 5 envelopes"):
        await bus.publish([an_envelope("t5", TELEMETRY_LANE)])
    await bus.publish([an_envelope(f"e{number}", EMERGENCY_LANE, CRITICAL) for number in range(9)])
    await bus.publish([an_envelope("c", TELEMETRY_LANE, CRITICAL)])
    assert len(await bus.read([EMERGENCY_LANE], 0, 100)) == 9
    with pytest.raises(BackPressure, match="BUS_LANE_EMERGENCY holds 5 envelopes"):
        await bus.publish([an_envelope("n", EMERGENCY_LANE)])


async def test_what_a_full_lane_refuses_it_refuses_as_a_whole(bus: Bus) -> None:
    await bus.publish([an_envelope(f"t{number}", TELEMETRY_LANE) for number in range(4)])
    with pytest.raises(BackPressure):
        await bus.publish([an_envelope("n"), an_envelope("t4", TELEMETRY_LANE), an_envelope("t5", TELEMETRY_LANE)])
    assert ids(await bus.read(LANES, 0, 10)) == ["t0", "t1", "t2", "t3"]
    assert all(stored.is_new for stored in await bus.publish([an_envelope("n"), an_envelope("t4", TELEMETRY_LANE)]))


async def test_known_ids_do_not_fill_a_lane(bus: Bus) -> None:
    for _ in range(3):
        await bus.publish([an_envelope(f"t{number % 4}", TELEMETRY_LANE) for number in range(8)])
    assert ids(await bus.read(LANES, 0, 10)) == ["t0", "t1", "t2", "t3"]


async def test_a_lane_of_too_many_bytes_refuses_more_but_what_is_critical_always_fits(small: Bus) -> None:
    await small.publish([large(name) for name in "abcdefg"])
    with pytest.raises(BackPressure, match=r"BUS_LANE_NORMAL holds 14 of 16 MiB, and 2 MiB more don't fit"):
        await small.publish([large("h")])
    with pytest.raises(BackPressure):
        await small.publish([an_envelope("t", TELEMETRY_LANE), large("h")])
    await small.publish([large("a"), large("b")])  # known ones take no room
    await small.publish([large("t", TELEMETRY_LANE), large("c!", NORMAL_LANE, CRITICAL)])
    assert ids(await small.read([NORMAL_LANE], 0, 10)) == [*"abcdefg", "c!"]


async def test_of_too_many_bytes_what_was_handled_goes_the_least_urgent_and_oldest_first(small: Bus) -> None:
    urgency = {"a": HIGH, "b": NORMAL, "c": LOW, "d": NORMAL, "e": LOW, "f": NORMAL, "g": HIGH}
    await small.publish([large(name, TELEMETRY_LANE, priority) for name, priority in urgency.items()])
    assert len(await small.fetch("g", "c1", LANES, 10)) == 7
    assert await small.trim() == 0  # held, however many bytes they are
    await small.acknowledge("g", list("bcdeg"))
    assert await small.trim() == 4
    assert ids(await small.read(LANES, 0, 10)) == ["a", "f", "g"]
    await small.publish([large(name, TELEMETRY_LANE) for name in "hijk"])
    with pytest.raises(BackPressure):
        await small.publish([large("l", TELEMETRY_LANE)])


async def test_what_was_handled_goes_though_less_urgent_ones_wait_unhandled(small: Bus) -> None:
    await small.publish([large(name, TELEMETRY_LANE, LOW) for name in "abcd"])
    await small.publish([large(name, TELEMETRY_LANE, HIGH) for name in "efg"])
    assert ids(await small.fetch("g", "c1", LANES, 3)) == ["e", "f", "g"]
    await small.acknowledge("g", list("efg"))
    assert await small.trim() == 3
    assert ids(await small.fetch("g", "c1", LANES, 9)) == ["a", "b", "c", "d"]


async def test_dead_letters_are_kept_up_to_the_bytes_of_a_lane(tmp_path: Path, clock: ManualClock) -> None:
    for number, made in enumerate(BUSES.values()):
        (tmp_path / str(number)).mkdir()
        async with made(tmp_path / str(number), clock, SMALL) as bus:
            for lane, names in ((NORMAL_LANE, "abcde"), (TELEMETRY_LANE, "fghij")):
                await bus.publish([large(name, lane) for name in names])
                await dead(bus, clock, *names)
            await bus.trim()
            assert await letters(bus) == [("g", name) for name in "defghij"]


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


async def test_of_too_many_the_least_urgent_are_forgotten_first(tmp_path: Path, clock: ManualClock) -> None:
    config = BusConfig(max_kept_entries=3)
    for number, made in enumerate(BUSES.values()):
        (tmp_path / str(number)).mkdir()
        async with made(tmp_path / str(number), clock, config) as bus:
            given = (("h1", HIGH), ("l1", LOW), ("n1", NORMAL), ("l2", LOW), ("h2", HIGH), ("n2", NORMAL))
            await bus.publish([an_envelope(name, TELEMETRY_LANE, priority) for name, priority in given])
            assert await bus.trim() == 3
            assert ids(await bus.read(LANES, 0, 10)) == ["h1", "h2", "n2"]


async def test_a_trim_forgets_any_number(tmp_path: Path, clock: ManualClock) -> None:
    config = BusConfig(max_kept_entries=1)
    for number, made in enumerate(BUSES.values()):
        (tmp_path / str(number)).mkdir()
        async with made(tmp_path / str(number), clock, config) as bus:
            for page in range(6):
                await bus.publish([an_envelope(f"e{page}-{number}", TELEMETRY_LANE) for number in range(1000)])
            assert await bus.trim() == 5999
            (again,) = await bus.publish([an_envelope("e0-0", TELEMETRY_LANE)])
            assert (again.sequence, again.is_new) == (6001, True)


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


async def test_who_follows_several_lanes_is_given_all_of_the_publication_that_woke_it(bus: Bus) -> None:
    pages = followed(bus, LANES, 0, 10, 60.0)
    coming = asyncio.ensure_future(anext(pages))
    await asyncio.sleep(0.1)  # until a server is asked
    assert not coming.done()
    await bus.publish([an_envelope("a"), an_envelope("b", TELEMETRY_LANE), an_envelope("c")])
    found = ids(await coming)
    while "c" not in found:
        found += ids(await anext(pages))
    assert found == ["a", "b", "c"]


async def test_waiting_for_nothing_ends_too(bus: Bus) -> None:
    async with asyncio.timeout(10):
        await bus.wait(await bus.last_sequence(), 0.01)


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_deliveries"):
        BusConfig(max_deliveries=0)


def test_a_lane_that_could_not_take_two_requests_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_lane_bytes = 16777215: give at least 16777216 \(16 MiB\)"):
        BusConfig(max_lane_bytes=16 * MIB - 1)


async def test_a_group_that_nobody_reads_for_is_forgotten_and_its_loss_is_counted(
    tmp_path: Path, clock: ManualClock
) -> None:
    config = BusConfig(group_retention_s=1000.0, full_lane_patience_s=200.0, retention_s=100.0)
    for number, made in enumerate(BUSES.values()):
        (tmp_path / str(number)).mkdir()
        async with made(tmp_path / str(number), clock, config) as bus:
            await bus.publish([an_envelope(name) for name in "abcd"])
            assert ids(await bus.fetch("lost", "c1", LANES, 2)) == ["a", "b"]
            await bus.acknowledge("lost", ["a"])
            assert len(await bus.fetch("read", "c1", LANES, 9)) == 4
            await bus.acknowledge("read", list("abcd"))
            clock.advance(150.0)
            assert await bus.fetch("read", "c1", LANES, 9) == []
            assert await bus.forget_groups(is_full=True) == {}
            clock.advance(100.0)
            assert await bus.forget_groups() == {}
            assert await bus.trim() == 1, "what is old and handled by all goes, and nothing else"
            assert await bus.forget_groups(is_full=True) == {"lost": 3}
            assert await bus.forget_groups(is_full=True) == {}
            assert await bus.depth(NORMAL_LANE) == 0
            assert await bus.trim() == 3
            await bus.publish([an_envelope("e")])
            assert ids(await bus.fetch("lost", "c1", LANES, 9)) == ["e"], "it begins anew"
            clock.advance(1001.0)
            assert await bus.forget_groups() == {"lost": 1, "read": 1}
