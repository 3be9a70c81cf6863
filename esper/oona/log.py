"""The embedded bus: a SQLite file that one process owns.

Each operation is one transaction in the store's writer thread; waiting ones share a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from esper.core.clock import NS_PER_S, Clock
from esper.core.errors import BackPressure
from esper.core.store import SqliteStore
from esper.leyline import BusEnvelope, BusLane
from esper.oona import schema
from esper.oona.bus import LANES, PRIORITIES, BusConfig, Stored

T = TypeVar("T")
RETRY_AFTER_S = 1.0


class SqliteLog:
    """A bus in one file."""

    vouches = True

    def __init__(self, path: Path, clock: Clock, config: BusConfig | None = None) -> None:
        self._clock = clock
        self._config = config or BusConfig()
        self._store = SqliteStore(path, schema.create)
        self._newest = self._store.read(_newest)
        self._waiting: set[tuple[frozenset[int], asyncio.Future[None]]] = set()

    async def publish(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        stored = await self._write(lambda db: [self._append(db, envelope) for envelope in envelopes])
        for envelope, each in zip(envelopes, stored, strict=True):
            self._newest[envelope.lane] = max(self._newest.get(envelope.lane, 0), each.sequence)
        self._wake({envelope.lane for envelope in envelopes})
        return stored

    async def fetch(self, group: str, consumer: str, lanes: Sequence[BusLane], limit: int) -> list[BusEnvelope]:
        def work(db: sqlite3.Connection) -> list[BusEnvelope]:
            again = self._redeliver(db, group, consumer, lanes, limit)
            return again + self._deliver_new(db, group, consumer, lanes, limit - len(again))

        return await self._write(work)

    async def acknowledge(self, group: str, event_ids: Sequence[str]) -> None:
        await self._write(
            lambda db: (
                db.executemany(
                    "DELETE FROM deliveries WHERE name = ? AND event_id = ?",
                    [(group, event_id) for event_id in event_ids],
                ).rowcount
            )
        )

    async def reject(self, group: str, event_ids: Sequence[str]) -> None:
        now_ns, wait_ns = self._clock.now_ns(), round(self._config.retry_s * NS_PER_S)
        rows = [(now_ns, wait_ns, group, event_id) for event_id in event_ids]
        update = "UPDATE deliveries SET again_ns = ? + (? << (attempt - 1)) WHERE name = ? AND event_id = ?"
        await self._write(lambda db: db.executemany(update, rows).rowcount)

    async def release(self, group: str, consumer: str) -> None:
        update = "UPDATE deliveries SET again_ns = 0 WHERE name = ? AND consumer = ?"
        await self._write(lambda db: db.execute(update, (group, consumer)).rowcount)

    async def read(self, lanes: Sequence[BusLane], after_sequence: int, limit: int) -> list[BusEnvelope]:
        query = (
            f"SELECT sequence, envelope FROM envelopes WHERE lane IN ({_marks(lanes)}) AND sequence > ?"
            " ORDER BY sequence LIMIT ?"
        )
        rows = self._store.read(lambda db: db.execute(query, (*lanes, after_sequence, limit)).fetchall())
        return [_envelope(raw, sequence) for sequence, raw in rows]

    async def wait(self, after_sequence: int, timeout_s: float, lanes: Sequence[BusLane] = LANES) -> None:
        if any(self._newest.get(lane, 0) > after_sequence for lane in lanes):
            return
        waiting = (frozenset[int](lanes), asyncio.get_running_loop().create_future())
        self._waiting.add(waiting)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiting[1]
        finally:
            self._waiting.discard(waiting)

    async def last_sequence(self) -> int:
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'envelopes'"
        row = self._store.read(lambda db: db.execute(query).fetchone())
        return int(row[0]) if row else 0

    async def depth(self, lane: BusLane) -> int:
        # It counts what may be many rows: the loop goes on meanwhile.
        return await asyncio.to_thread(self._store.read, lambda db: _backlog(db, lane))

    async def dead_letter_count(self) -> int:
        return self._store.read(lambda db: int(db.execute("SELECT COUNT(*) FROM dead_letters").fetchone()[0]))

    async def trim(self) -> int:
        now_ns, keep_ns = self._clock.now_ns(), round(self._config.retention_s * NS_PER_S)

        def work(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM dead_letters WHERE stored_ns < ?", (now_ns - 7 * keep_ns,))
            lanes = db.execute("SELECT lane, entries FROM depths").fetchall()
            return sum(self._trim_lane(db, lane, entries, now_ns - keep_ns) for lane, entries in lanes)

        return await self._write(work)

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)

    def _wake(self, lanes: set[int]) -> None:
        for wanted, woken in self._waiting:
            if not wanted.isdisjoint(lanes) and not woken.done():
                woken.set_result(None)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._store.submit(work))

    def _append(self, db: sqlite3.Connection, envelope: BusEnvelope) -> Stored:
        known = db.execute("SELECT sequence FROM envelopes WHERE event_id = ?", (envelope.event_id,)).fetchone()
        if known is not None:
            return Stored(known[0], is_new=False)
        if envelope.lane != BusLane.BUS_LANE_EMERGENCY and _entries(db, envelope.lane) >= self._config.max_lane_entries:
            lane = BusLane.Name(envelope.lane)
            raise BackPressure(
                f"{lane} holds {self._config.max_lane_entries} envelopes, as many as it takes", RETRY_AFTER_S
            )
        row = (envelope.event_id, envelope.lane, envelope.priority, self._clock.now_ns(), envelope.SerializeToString())
        insert = "INSERT INTO envelopes (event_id, lane, priority, stored_ns, envelope) VALUES (?, ?, ?, ?, ?)"
        sequence = db.execute(insert, row).lastrowid
        count = "INSERT INTO depths VALUES (?, 1) ON CONFLICT (lane) DO UPDATE SET entries = entries + 1"
        db.execute(count, (envelope.lane,))
        return Stored(int(sequence or 0), is_new=True)

    def _trim_lane(self, db: sqlite3.Connection, lane: int, entries: int, before_ns: int) -> int:
        """Remove what every group has been given and none still holds: what is old, and the oldest of too many."""
        surplus = max(0, entries - self._config.max_kept_entries)
        newest = "SELECT sequence FROM envelopes WHERE lane = ? ORDER BY sequence LIMIT 1 OFFSET ?"
        first_kept = db.execute(newest, (lane, surplus)).fetchone()
        delete = (
            "DELETE FROM envelopes WHERE lane = ? AND (stored_ns < ? OR sequence < ?)"
            " AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sequence = envelopes.sequence)"
            " AND NOT EXISTS (SELECT 1 FROM cursors c WHERE c.lane = envelopes.lane"
            " AND c.priority = envelopes.priority AND c.sequence < envelopes.sequence)"
        )
        gone = db.execute(delete, (lane, before_ns, first_kept[0] if first_kept else 0)).rowcount
        db.execute("UPDATE depths SET entries = entries - ? WHERE lane = ?", (gone, lane))
        return gone

    def _redeliver(
        self, db: sqlite3.Connection, group: str, consumer: str, lanes: Sequence[BusLane], limit: int
    ) -> list[BusEnvelope]:
        """What a consumer rejected, or took and never acknowledged; the hopeless is put aside on the way."""
        now_ns = self._clock.now_ns()
        query = (
            "SELECT d.sequence, d.attempt, e.envelope FROM deliveries d JOIN envelopes e USING (sequence)"
            f" WHERE d.name = ? AND d.again_ns <= ? AND d.lane IN ({_marks(lanes)}) ORDER BY d.sequence LIMIT ?"
        )
        found = []
        for sequence, attempt, raw in db.execute(query, (group, now_ns, *lanes, limit)).fetchall():
            if attempt >= self._config.max_deliveries:
                db.execute("INSERT INTO dead_letters VALUES (?, ?, ?, ?)", (group, sequence, now_ns, raw))
                db.execute("DELETE FROM deliveries WHERE name = ? AND sequence = ?", (group, sequence))
                continue
            update = "UPDATE deliveries SET consumer = ?, attempt = ?, again_ns = ? WHERE name = ? AND sequence = ?"
            db.execute(update, (consumer, attempt + 1, self._lease_end_ns(), group, sequence))
            found.append(_envelope(raw, sequence, attempt + 1))
        return found

    def _deliver_new(
        self, db: sqlite3.Connection, group: str, consumer: str, lanes: Sequence[BusLane], limit: int
    ) -> list[BusEnvelope]:
        """What the group was never given: lane by lane, urgent ones first, oldest first."""
        found: list[BusEnvelope] = []
        for lane in lanes:
            for priority in PRIORITIES:
                found += self._deliver_lane(db, group, consumer, (lane, priority), limit - len(found))
        return found

    def _deliver_lane(
        self, db: sqlite3.Connection, group: str, consumer: str, place: tuple[int, int], limit: int
    ) -> list[BusEnvelope]:
        db.execute("INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, 0)", (group, *place))
        cursor = db.execute(
            "SELECT sequence FROM cursors WHERE name = ? AND lane = ? AND priority = ?", (group, *place)
        )
        query = (
            "SELECT sequence, event_id, envelope FROM envelopes WHERE lane = ? AND priority = ? AND sequence > ?"
            " ORDER BY sequence LIMIT ?"
        )
        rows = db.execute(query, (*place, cursor.fetchone()[0], max(0, limit))).fetchall()
        if rows:
            taken = [(group, sequence, event, place[0], consumer, self._lease_end_ns()) for sequence, event, _ in rows]
            db.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, 1, ?)", taken)
            move = "UPDATE cursors SET sequence = ? WHERE name = ? AND lane = ? AND priority = ?"
            db.execute(move, (rows[-1][0], group, *place))
        return [_envelope(raw, sequence, 1) for sequence, _, raw in rows]

    def _lease_end_ns(self) -> int:
        return self._clock.now_ns() + round(self._config.lease_s * NS_PER_S)


def _entries(db: sqlite3.Connection, lane: int) -> int:
    row = db.execute("SELECT entries FROM depths WHERE lane = ?", (lane,)).fetchone()
    return int(row[0]) if row else 0


def _backlog(db: sqlite3.Connection, lane: int) -> int:
    """What the slowest group was not given yet, and what it was given and still holds."""
    ahead = (
        "SELECT c.name, COUNT(e.sequence) FROM cursors c LEFT JOIN envelopes e ON e.lane = c.lane"
        " AND e.priority = c.priority AND e.sequence > c.sequence WHERE c.lane = ? GROUP BY c.name"
    )
    counts = dict(db.execute(ahead, (lane,)).fetchall())
    held = db.execute("SELECT name, COUNT(*) FROM deliveries WHERE lane = ? GROUP BY name", (lane,)).fetchall()
    for name, count in held:
        counts[name] = counts.get(name, 0) + count
    return max(counts.values(), default=0)


def _marks(values: Sequence[int]) -> str:
    return ", ".join("?" * len(values))


def _envelope(raw: bytes, sequence: int, attempt: int | None = None) -> BusEnvelope:
    envelope = BusEnvelope.FromString(raw)
    envelope.sequence = sequence
    if attempt is not None:
        envelope.attempt = attempt
    return envelope


def _newest(db: sqlite3.Connection) -> dict[int, int]:
    """Position of each lane's newest envelope."""
    query = "SELECT sequence FROM envelopes WHERE lane = ? ORDER BY sequence DESC LIMIT 1"
    found = {lane: db.execute(query, (lane,)).fetchone() for lane in LANES}
    return {lane: row[0] for lane, row in found.items() if row is not None}
