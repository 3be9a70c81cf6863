"""The SQLite log beyond the common promises: restarts, and any order of operations."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, ManualClock
from esper.core.errors import BackPressure
from esper.leyline import BusEnvelope
from esper.oona import dead_letters
from esper.oona.bus import MIB, BusConfig, Stored
from esper.oona.log import SqliteLog
from tests.unit.oona.buses import EMERGENCY_LANE, NORMAL_LANE, TELEMETRY_LANE, an_envelope

LANES = (EMERGENCY_LANE, NORMAL_LANE, TELEMETRY_LANE)
CONFIG = BusConfig(max_deliveries=3, lease_s=10.0, retry_s=1.0, retention_s=50.0)


async def test_a_restart_keeps_envelopes_and_groups_and_lends_what_was_held_at_once(tmp_path: Path) -> None:
    clock = ManualClock()
    bus = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    await bus.publish([an_envelope(name) for name in "abcd"])
    await bus.fetch("g", "c1", LANES, 3)
    await bus.acknowledge("g", ["a"])
    await bus.reject("g", ["c"])
    await bus.close()
    again = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    found = await again.fetch("g", "c2", LANES, 10)
    assert [(envelope.event_id, envelope.attempt) for envelope in found] == [("b", 2), ("d", 1)]
    clock.advance(1.0)
    (rejected,) = await again.fetch("g", "c2", LANES, 10)
    assert (rejected.event_id, rejected.attempt) == ("c", 2)
    await again.close()


async def test_a_position_is_never_given_twice(tmp_path: Path) -> None:
    clock = ManualClock()
    bus = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    (first,) = await bus.publish([an_envelope("a")])
    clock.advance(51.0)
    assert await bus.trim() == 1
    await bus.close()
    again = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    (second,) = await again.publish([an_envelope("b")])
    assert second.sequence > first.sequence
    await again.close()


async def test_who_waits_for_a_group_is_woken_by_what_another_consumer_gives_back(tmp_path: Path) -> None:
    bus = SqliteLog(tmp_path / "oona.db", SYSTEM_CLOCK, replace(CONFIG, retry_s=0.01))
    (stored,) = await bus.publish([an_envelope("a")])
    for give_back in (partial(bus.reject, "g", ["a"]), partial(bus.release, "g", "c1")):
        while not await bus.fetch("g", "c1", LANES, 1):
            pass
        # None would come by itself before its lease is over, and the wait is longer than that.
        waiting = asyncio.create_task(bus.wait(stored.sequence, 600.0, LANES, "g"))
        of_another_group = asyncio.create_task(bus.wait(stored.sequence, 600.0, LANES, "other"))
        await give_back()
        await asyncio.wait_for(waiting, 5.0)
        assert not of_another_group.done()
        of_another_group.cancel()
    await bus.close()


async def test_who_waits_for_a_group_waits_no_longer_than_until_something_is_due_again(tmp_path: Path) -> None:
    bus = SqliteLog(tmp_path / "oona.db", SYSTEM_CLOCK, replace(CONFIG, retry_s=0.05))
    (stored,) = await bus.publish([an_envelope("a")])
    await bus.fetch("g", "c1", LANES, 1)
    await bus.reject("g", ["a"])
    while not (found := await bus.fetch("g", "c1", LANES, 1)):
        await asyncio.wait_for(bus.wait(stored.sequence, 600.0, LANES, "g"), 5.0)
    assert found[0].attempt == 2
    await bus.close()


async def test_a_bus_on_which_nothing_happens_writes_nothing_to_forget_what_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    bus = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    written: list[object] = []
    write = bus._store.submit
    monkeypatch.setattr(bus._store, "submit", lambda work: written.append(work) or write(work))

    async def tidied() -> int:
        written.clear()
        await bus.forget_groups()
        await bus.trim()
        return len(written)

    assert await tidied() == 2
    assert await tidied() == 0
    await bus.publish([an_envelope("a")])
    assert await tidied() == 1
    await bus.fetch("g", "c", LANES, 1)
    await bus.acknowledge("g", ["a"])
    assert await tidied() == 1
    clock.advance(51.0)
    assert await bus.trim() == 1
    await bus.close()


async def test_a_lane_is_as_full_after_a_restart_a_trim_and_a_requeue_as_its_envelopes_say(tmp_path: Path) -> None:
    clock, config = ManualClock(), replace(CONFIG, max_lane_entries=3, max_deliveries=1)

    async def is_full(bus: SqliteLog, *, with_more: int) -> bool:
        more = [an_envelope(f"{with_more}-{number}-{clock.now_ns()}") for number in range(with_more)]
        try:
            await bus.publish(more)
        except BackPressure:
            return True
        return False

    bus = SqliteLog(tmp_path / "oona.db", clock, config)
    await bus.publish([an_envelope("a"), an_envelope("b")])
    await bus.fetch("g", "c", LANES, 2)
    await bus.acknowledge("g", ["a"])
    await bus.reject("g", ["b"])
    await bus.close()
    bus = SqliteLog(tmp_path / "oona.db", clock, config)
    assert await is_full(bus, with_more=2)
    clock.advance(51.0)
    assert await bus.fetch("g", "c", LANES, 2) == []  # b is put aside
    assert await bus.trim() == 2
    assert await bus.requeue("g", ["b"]) == ["b"]
    assert await is_full(bus, with_more=3)
    assert not await is_full(bus, with_more=2)
    assert await is_full(bus, with_more=1)
    await bus.close()


async def test_a_log_opened_with_fewer_bytes_forgets_what_was_handled_and_refuses_beyond_the_rest(
    tmp_path: Path,
) -> None:
    def opened(most: int) -> SqliteLog:
        return SqliteLog(tmp_path / "oona.db", ManualClock(), replace(CONFIG, max_lane_bytes=most))

    bus = opened(64 * MIB)
    await bus.publish([an_envelope(f"e{number}", more_bytes=2 * MIB) for number in range(12)])
    handled = [each.event_id for each in await bus.fetch("g", "c", LANES, 5)]
    await bus.acknowledge("g", handled)
    await bus.close()
    bus, more = opened(16 * MIB), [an_envelope("more", more_bytes=2 * MIB)]
    with pytest.raises(BackPressure, match="BUS_LANE_NORMAL holds 24 of 16 MiB"):
        await bus.publish(more)
    assert await bus.trim() == len(handled) == 5
    with pytest.raises(BackPressure, match="BUS_LANE_NORMAL holds 14 of 16 MiB"):
        await bus.publish(more)
    waiting = [each.event_id for each in await bus.fetch("g", "c", LANES, 20)]
    assert waiting == [f"e{number}" for number in range(5, 12)]
    await bus.acknowledge("g", waiting)
    assert await bus.trim() == 4
    assert (await bus.publish(more))[0].is_new
    await bus.close()


async def test_to_ask_what_is_new_costs_the_same_however_much_is_kept(tmp_path: Path) -> None:
    bus, steps = SqliteLog(tmp_path / "oona.db", ManualClock(), CONFIG), Counter[int]()
    found: list[str] = []
    for kept in (10, 200):
        stored = await bus.publish([an_envelope(f"{kept}-{number}") for number in range(kept)])
        step = partial(steps.update, [kept])
        bus._store.read(lambda db, step=step: db.set_progress_handler(step, 1))  # type: ignore[misc]
        found += [each.event_id for each in await bus.read(LANES, stored[-2].sequence, 5)]
        bus._store.read(lambda db: db.set_progress_handler(None, 1))
    await bus.close()
    assert found == ["10-9", "200-199"]
    assert steps[200] == steps[10] > 0


@pytest.mark.parametrize("step_s", [-3600, 3600])
async def test_a_clock_that_is_put_back_or_forward_changes_no_wait(step_s: int, tmp_path: Path) -> None:
    clock = ManualClock()
    bus = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    await bus.publish([an_envelope("held"), an_envelope("rejected")])
    await bus.fetch("g", "c1", LANES, 2)
    await bus.reject("g", ["rejected"])
    clock.set(clock.now_ns() + step_s * NS_PER_S)
    assert await bus.fetch("g", "c2", LANES, 2) == []
    clock.advance(1.0)
    assert [each.event_id for each in await bus.fetch("g", "c2", LANES, 2)] == ["rejected"]
    clock.advance(9.0)
    assert "held" in [each.event_id for each in await bus.fetch("g", "c2", LANES, 2)]
    await bus.close()


async def test_what_was_rejected_waits_a_lease_at_most_where_the_clock_was_put_back_over_a_restart(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    bus = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    await bus.publish([an_envelope("a")])
    await bus.fetch("g", "c1", LANES, 1)
    await bus.reject("g", ["a"])
    await bus.close()
    clock.set(clock.now_ns() - 3600 * NS_PER_S)
    again = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    clock.advance(CONFIG.lease_s)
    assert len(await again.fetch("g", "c1", LANES, 1)) == 1
    await again.close()


async def test_rejections_wait_longer_each_time(tmp_path: Path) -> None:
    clock = ManualClock()
    bus = SqliteLog(tmp_path / "oona.db", clock, CONFIG)
    await bus.publish([an_envelope("a")])
    await bus.fetch("g", "c1", LANES, 1)
    for wait_s in (1.0, 2.0):
        await bus.reject("g", ["a"])
        clock.advance(wait_s - 0.001)
        assert await bus.fetch("g", "c1", LANES, 1) == []
        clock.advance(0.001)
        assert len(await bus.fetch("g", "c1", LANES, 1)) == 1
    await bus.close()


class LogMachine(RuleBasedStateMachine):
    """In any order of operations, restarts included: nothing is lost, and nothing handled comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "oona.db"
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.published: list[str] = []
        self.handled: set[str] = set()
        self.held: set[str] = set()
        self.dropped: set[str] = set()
        self.open()
        # Only what a known group still has to see outlives its age.
        self.loop.run_until_complete(self.bus.fetch("g", "first", LANES, 1))

    def open(self) -> None:
        async def make() -> SqliteLog:
            return SqliteLog(self.path, self.clock, CONFIG)

        self.bus = self.loop.run_until_complete(make())

    @rule(lane=st.sampled_from(LANES), count=st.integers(1, 3))
    def publish(self, lane: int, count: int) -> None:
        names = [f"e{len(self.published) + number}" for number in range(count)]
        self.loop.run_until_complete(self.bus.publish([an_envelope(name, lane) for name in names]))
        self.published += names

    @rule(limit=st.integers(0, 4), consumer=st.sampled_from(["c1", "c2"]))
    def fetch(self, limit: int, consumer: str) -> None:
        found = self.loop.run_until_complete(self.bus.fetch("g", consumer, LANES, limit))
        names = [envelope.event_id for envelope in found]
        assert len(names) == len(set(names)) <= limit
        assert not self.handled & set(names)
        self.held |= set(names)

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        names = sorted(self.held)[: round(share * len(self.held))]
        self.loop.run_until_complete(self.bus.acknowledge("g", names))
        self.handled |= set(names)
        self.held -= set(names)

    @rule()
    def reject(self) -> None:
        self.loop.run_until_complete(self.bus.reject("g", sorted(self.held)))
        self.held.clear()

    @rule(seconds=st.sampled_from([0.5, 11.0, 16.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def trim(self) -> None:
        self.loop.run_until_complete(self.bus.trim())

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.bus.close())
        self.open()

    @rule(again=st.booleans())
    def settle_the_dead(self, again: bool) -> None:
        names = [letter.envelope.event_id for letter in dead_letters.read(self.path)]
        settle = self.bus.requeue if again else self.bus.drop
        assert sorted(self.loop.run_until_complete(settle("g", names))) == sorted(names)
        if not again:
            self.dropped |= set(names)

    def teardown(self) -> None:
        self.clock.advance(30.0)
        for _ in range(CONFIG.max_deliveries + 1):
            found = self.loop.run_until_complete(self.bus.fetch("g", "last", LANES, 1000))
            self.held |= {envelope.event_id for envelope in found}
            self.clock.advance(30.0)
        dead = {letter.envelope.event_id for letter in dead_letters.read(self.path)}
        assert not dead & self.handled
        assert not dead & self.dropped
        assert set(self.published) == self.handled | self.held | self.dropped | dead
        self.loop.run_until_complete(self.bus.close())
        self.loop.close()
        self.directory.cleanup()


LogMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestLogMachine = LogMachine.TestCase


async def test_a_publication_that_is_cancelled_while_it_is_stored_wakes_who_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appending, go_on, append = threading.Event(), threading.Event(), SqliteLog._append

    def held(log: SqliteLog, db: sqlite3.Connection, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        appending.set()
        go_on.wait(20)
        return append(log, db, envelopes)

    log = SqliteLog(tmp_path / "oona.db", ManualClock())
    monkeypatch.setattr(SqliteLog, "_append", held)
    try:
        following = asyncio.create_task(log.wait(0, 3600.0))
        publishing = asyncio.create_task(log.publish([an_envelope("a")]))
        await asyncio.to_thread(appending.wait, 20)
        publishing.cancel()
        await asyncio.wait([publishing])
        go_on.set()
        await asyncio.wait_for(following, 20)
        assert [each.event_id for each in await log.read([NORMAL_LANE], 0, 9)] == ["a"]
    finally:
        go_on.set()
        await log.close()
