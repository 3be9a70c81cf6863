"""The embedded bus: a SQLite file that one process owns.

Each operation is one transaction in the store's writer thread; waiting ones share a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from esper.core.clock import NS_PER_S, Clock, UnsteppedClock
from esper.core.process.awaited import awaited
from esper.core.storage.store import SqliteStore
from esper.leyline import BusEnvelope, BusLane, MessagePriority
from esper.oona import dead_letters, groups, schema
from esper.oona.bus import LANES, LEAST, PRIORITIES, BusConfig, DeadLetter, Stored, is_exempt, require_room

T = TypeVar("T")
MAX_SEQUENCE = 2**63 - 1
TRIM_PAGE = 2000
INSERT_ROWS = 2000
# Where nothing was stored or settled since, only time makes something old: it is looked for this often, and ten times
# within the shortest time that anything is kept.
IDLE_TRIM_S = 60.0
Place = tuple[int, int]
"""Lane and priority."""
_Lent = tuple[int, int]
"""Position and attempt."""

# Each step of a statement gives the interpreter away, and a busy loop gives it back late: so one statement does for
# many rows, and many rows come as one.
_INSERT, _ROW = "INSERT INTO envelopes VALUES ", "(?, ?, ?, ?, ?, ?)"
_LAST = "SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'envelopes'"
_KNOWN = (
    f"SELECT json_group_object(event_id, sequence), ({_LAST}) FROM envelopes"
    " WHERE event_id IN (SELECT value FROM json_each(?))"
)
_COUNTS = "SELECT lane, COUNT(*), SUM(LENGTH(envelope)) FROM envelopes GROUP BY lane"
# How far the group was given each lane and priority, and whether there is more.
_GIVEN = (
    "SELECT json_group_array(json_array(lane, priority, sequence, EXISTS (SELECT 1 FROM envelopes e"
    " WHERE e.lane = c.lane AND e.priority = c.priority AND e.sequence > c.sequence)))"
    " FROM cursors c WHERE name = ? AND lane IN (SELECT value FROM json_each(?))"
)
_NEW = (
    "SELECT json_group_array(sequence) FROM (SELECT sequence FROM envelopes"
    " WHERE lane = ? AND priority = ? AND sequence > ? ORDER BY sequence LIMIT ?)"
)
_LEND = (
    "INSERT INTO deliveries SELECT ?, sequence, event_id, lane, ?, 1, ? FROM envelopes"
    " WHERE lane = ? AND priority = ? AND sequence BETWEEN ? AND ?"
)
_MOVE = "UPDATE cursors SET sequence = ? WHERE name = ? AND lane = ? AND priority = ?"
_DUE = (
    "SELECT json_group_array(json_array(d.lane, e.priority, d.sequence, d.attempt)) FROM deliveries d"
    " JOIN envelopes e USING (sequence) WHERE d.name = ? AND d.again_ns <= ?"
    " AND d.lane IN (SELECT value FROM json_each(?))"
)
_NEXT_DUE = (
    "SELECT MIN(d.again_ns) FROM deliveries d JOIN envelopes e USING (sequence) WHERE d.name = ?"
    " AND d.lane IN (SELECT value FROM json_each(?))"
)
_LEND_AGAIN = (
    "UPDATE deliveries SET consumer = ?, attempt = attempt + 1, again_ns = ?"
    " WHERE name = ? AND sequence IN (SELECT value FROM json_each(?))"
)
_PUT_ASIDE = "INSERT OR REPLACE INTO dead_letters SELECT ?, sequence, ?, envelope FROM envelopes WHERE sequence = ?"
_SETTLED = "DELETE FROM deliveries WHERE name = ? AND event_id IN (SELECT value FROM json_each(?))"
_READ = (
    "SELECT sequence, envelope FROM envelopes WHERE lane IN (SELECT value FROM json_each(?))"
    " AND priority IN (SELECT value FROM json_each(?)) AND sequence > ? ORDER BY sequence LIMIT ?"
)
_ENVELOPES = "SELECT sequence, envelope FROM envelopes WHERE sequence IN (SELECT value FROM json_each(?))"
_LAST_GIVEN = "SELECT MIN(sequence) FROM cursors WHERE lane = ? AND priority = ?"
# Of what was handled the old, or all: position, whether it is old, bytes.
_HANDLED = (
    "SELECT json_group_array(json_array(sequence, is_old, size)) FROM (SELECT sequence, stored_ns < ? AS is_old,"
    " LENGTH(envelope) AS size FROM envelopes WHERE lane = ? AND priority = ? AND sequence <= ?"
    " AND (stored_ns < ? OR ?) AND sequence NOT IN (SELECT d.sequence FROM deliveries d)"
    f" ORDER BY sequence LIMIT {TRIM_PAGE})"
)
_FORGET = "DELETE FROM envelopes WHERE sequence IN (SELECT value FROM json_each(?))"


class SqliteLog:
    """A bus in one file."""

    vouches = True

    def __init__(self, path: Path, clock: Clock, config: BusConfig | None = None) -> None:
        self._clock = UnsteppedClock(clock)
        self._config = config or BusConfig()
        self._store = SqliteStore(path, partial(_open, latest_ns=self._lease_end_ns()))
        self._newest = self._store.read(_newest)
        self._entries, self._bytes = self._store.read(_counted)
        self._waiting: set[tuple[frozenset[int], str | None, asyncio.Future[None]]] = set()
        self._has_changed = True
        self._trimmed_ns = self._forgot_ns = -MAX_SEQUENCE

    async def publish(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        self._has_changed = True
        work = self._store.submit(lambda db: self._append(db, envelopes))
        return await awaited(work, partial(self._tell, envelopes))

    async def fetch(self, group: str, consumer: str, lanes: Sequence[BusLane], limit: int) -> list[BusEnvelope]:
        lent = await self._write(lambda db: self._deliver(db, group, consumer, lanes, limit))
        if not lent:
            return []
        self._has_changed = True
        wanted = json.dumps([sequence for sequence, _ in lent])
        found = dict(self._store.read(lambda db: db.execute(_ENVELOPES, (wanted,)).fetchall()))
        # What another consumer settled since is gone.
        return [_envelope(found[sequence], sequence, attempt) for sequence, attempt in lent if sequence in found]

    async def acknowledge(self, group: str, event_ids: Sequence[str]) -> None:
        self._has_changed = True
        await self._write(lambda db: db.execute(_SETTLED, (group, json.dumps(list(event_ids)))).rowcount)

    async def reject(self, group: str, event_ids: Sequence[str]) -> None:
        now_ns, wait_ns = self._clock.now_ns(), round(self._config.retry_s * NS_PER_S)
        rows = [(now_ns, self._lease_ns, wait_ns, group, event_id) for event_id in event_ids]
        update = (
            "UPDATE deliveries SET consumer = '', again_ns = ? + MIN(?, ? << (attempt - 1))"
            " WHERE name = ? AND event_id = ?"
        )
        await self._write(lambda db: db.executemany(update, rows).rowcount)
        self._wake(LANES, group)

    async def release(self, group: str, consumer: str) -> None:
        update = "UPDATE deliveries SET again_ns = 0 WHERE name = ? AND consumer = ?"
        if await self._write(lambda db: db.execute(update, (group, consumer)).rowcount):
            self._wake(LANES, group)

    async def read(
        self, lanes: Sequence[BusLane], after_sequence: int, limit: int, min_priority: MessagePriority = LEAST
    ) -> list[BusEnvelope]:
        # Priorities by name: within each the index knows where the position is, of a range it would look at all rows.
        priorities = [priority for priority in PRIORITIES if priority >= min_priority]
        given = (json.dumps(list(lanes)), json.dumps(priorities), after_sequence, limit)
        rows = self._store.read(lambda db: db.execute(_READ, given).fetchall())
        return [_envelope(raw, sequence) for sequence, raw in rows]

    async def wait(
        self, after_sequence: int, timeout_s: float, lanes: Sequence[BusLane] = LANES, group: str | None = None
    ) -> None:
        if any(self._newest.get(lane, 0) > after_sequence for lane in lanes):
            return
        waiting = (frozenset[int](lanes), group, asyncio.get_running_loop().create_future())
        self._waiting.add(waiting)
        try:
            # Looked for only now: what is given back from here on wakes who waits.
            patience_s = timeout_s if group is None else min(timeout_s, self._due_in_s(group, lanes))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await waiting[2]
        finally:
            self._waiting.discard(waiting)

    async def last_sequence(self) -> int:
        return int(self._store.read(lambda db: db.execute(_LAST).fetchone())[0] or 0)

    async def depth(self, lane: BusLane) -> int:
        # It counts what may be many rows: the loop goes on meanwhile.
        return await asyncio.to_thread(self._store.read, lambda db: _backlog(db, lane))

    async def dead_letter_count(self) -> int:
        return self._store.read(lambda db: int(db.execute("SELECT COUNT(*) FROM dead_letters").fetchone()[0]))

    async def dead_letters(self, group: str | None = None) -> AsyncIterator[DeadLetter]:
        after = dead_letters.START
        while page := self._store.read(partial(dead_letters.page, group=group, after=after)):
            for letter, _ in page:
                yield letter
            after = page[-1][1]

    async def requeue(self, group: str, event_ids: Sequence[str]) -> list[str]:
        requeued = await self._write(lambda db: self._requeue(db, group, event_ids))
        self._wake(LANES, group)
        return requeued

    async def drop(self, group: str, event_ids: Sequence[str]) -> list[str]:
        return await self._write(lambda db: dead_letters.drop(db, group, event_ids))

    async def trim(self) -> int:
        now_ns = self._clock.now_ns()
        if not self._has_changed and now_ns - self._trimmed_ns < self._idle_trim_ns:
            return 0
        self._has_changed, self._trimmed_ns = False, now_ns
        before_ns = now_ns - round(self._config.retention_s * NS_PER_S)
        dead_before_ns = now_ns - round(self._config.dead_retention_s * NS_PER_S)
        gone = 0
        while page := await self._write(partial(self._trim_page, before_ns=before_ns, dead_before_ns=dead_before_ns)):
            gone += page
        return gone

    async def forget_groups(self, *, is_full: bool = False) -> dict[str, int]:
        now_ns = self._clock.now_ns()
        if not is_full and now_ns - self._forgot_ns < self._idle_trim_ns:
            return {}
        self._forgot_ns = now_ns
        before_ns = now_ns - round(self._config.patience_s(is_full=is_full) * NS_PER_S)
        forgotten = await self._write(lambda db: groups.forget(db, now_ns, before_ns))
        self._has_changed |= bool(forgotten)
        return forgotten

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)

    def _tell(self, envelopes: Sequence[BusEnvelope], stored: Sequence[Stored]) -> None:
        """Wake who waits for what is stored now, whether or not its publisher still waits for that."""
        for envelope, each in zip(envelopes, stored, strict=True):
            self._newest[envelope.lane] = max(self._newest.get(envelope.lane, 0), each.sequence)
        self._wake({envelope.lane for envelope in envelopes})

    def _wake(self, lanes: Iterable[int], group: str | None = None) -> None:
        """Whoever waits for something in these lanes; of something given back its group alone."""
        for wanted, waiting_group, woken in self._waiting:
            if group in (None, waiting_group) and not wanted.isdisjoint(lanes) and not woken.done():
                woken.set_result(None)

    @property
    def _idle_trim_ns(self) -> int:
        config = self._config
        kept_s = min(config.retention_s, config.dead_retention_s, config.patience_s(is_full=False))
        return round(min(IDLE_TRIM_S, kept_s / 10) * NS_PER_S)

    def _due_in_s(self, group: str, lanes: Sequence[BusLane]) -> float:
        """Seconds until something that the group holds, or has rejected, is due again; infinite where there is none."""
        found = self._store.read(lambda db: db.execute(_NEXT_DUE, (group, json.dumps(list(lanes)))).fetchone())[0]
        return math.inf if found is None else max(0.0, (found - self._clock.now_ns()) / NS_PER_S)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await awaited(self._store.submit(work))

    def _append(self, db: sqlite3.Connection, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        raw, last = db.execute(_KNOWN, (json.dumps([each.event_id for each in envelopes]),)).fetchone()
        known, sequence, now_ns = json.loads(raw), last or 0, self._clock.now_ns()
        rows: list[tuple[int, str, int, int, int, bytes]] = []
        further, further_bytes, bounded, stored = Counter[int](), Counter[int](), set[BusLane](), []
        for envelope in envelopes:
            event_id, lane = envelope.event_id, envelope.lane
            if event_id in known:
                stored.append(Stored(known[event_id], is_new=False))
                continue
            sequence += 1
            known[event_id] = sequence
            content = envelope.SerializeToString()
            rows.append((sequence, event_id, lane, envelope.priority, now_ns, content))
            stored.append(Stored(sequence, is_new=True))
            further[lane] += 1
            further_bytes[lane] += len(content)
            if not is_exempt(envelope):
                bounded.add(lane)
        for each in bounded:
            require_room(
                self._config,
                each,
                entries=self._entries[each],
                further=further[each],
                size_bytes=self._bytes[each],
                further_bytes=further_bytes[each],
            )
        for start in range(0, len(rows), INSERT_ROWS):
            page = rows[start : start + INSERT_ROWS]
            db.execute(_INSERT + ", ".join([_ROW] * len(page)), [value for row in page for value in row])
        self._entries += further
        self._bytes += further_bytes
        return stored

    def _requeue(self, db: sqlite3.Connection, group: str, event_ids: Sequence[str]) -> list[str]:
        """What was trimmed since comes back, so that lanes are counted anew."""
        found = dead_letters.requeue(db, group, event_ids)
        self._entries, self._bytes = _counted(db)
        return found

    def _trim_page(self, db: sqlite3.Connection, before_ns: int, dead_before_ns: int) -> int:
        """A page of the first lane that has one to forget; 0 where none has."""
        dead_letters.trim(db, dead_before_ns, self._config)
        pages = (self._trim_lane(db, lane, before_ns) for lane in LANES)
        return next(filter(None, pages), 0)

    def _trim_lane(self, db: sqlite3.Connection, lane: int, before_ns: int) -> int:
        """Remove a page of what every group has been given and none still holds: what is old or too much.

        Of too many the least urgent go first, and of those the oldest.
        """
        surplus = self._entries[lane] - self._config.max_kept_entries
        surplus_bytes = self._bytes[lane] - self._config.max_kept_bytes
        gone, gone_bytes = list[int](), 0
        for priority in reversed(PRIORITIES):
            last = db.execute(_LAST_GIVEN, (lane, priority)).fetchone()[0]
            end = MAX_SEQUENCE if last is None else last
            is_too_much = len(gone) < surplus or gone_bytes < surplus_bytes
            raw = db.execute(_HANDLED, (before_ns, lane, priority, end, before_ns, is_too_much)).fetchone()[0]
            for sequence, is_old, size_bytes in json.loads(raw):
                if is_old or len(gone) < surplus or gone_bytes < surplus_bytes:
                    gone.append(sequence)
                    gone_bytes += size_bytes
        db.execute(_FORGET, (json.dumps(gone),))
        self._entries[lane] -= len(gone)
        self._bytes[lane] -= gone_bytes
        return len(gone)

    def _deliver(
        self, db: sqlite3.Connection, group: str, consumer: str, lanes: Sequence[BusLane], limit: int
    ) -> list[_Lent]:
        """Lane by lane, urgent ones first, of equal ones those due again first, oldest first."""
        groups.note(db, group, self._clock.now_ns())
        due = self._due(db, group, lanes)
        given = self._given(db, group, lanes)
        again: list[_Lent] = []
        found: list[_Lent] = []
        for place in ((lane, priority) for lane in lanes for priority in PRIORITIES):
            again += (old := due.get(place, [])[: max(0, limit - len(found))])
            found += old
            if place in given and (room := limit - len(found)) > 0:
                found += self._lend_new(db, (group, consumer), place, given[place], room)
        if again:
            sequences = json.dumps([sequence for sequence, _ in again])
            db.execute(_LEND_AGAIN, (consumer, self._lease_end_ns(), group, sequences))
        return found

    def _due(self, db: sqlite3.Connection, group: str, lanes: Sequence[BusLane]) -> dict[Place, list[_Lent]]:
        """What a consumer rejected, or took and never acknowledged; the hopeless is put aside on the way."""
        now_ns = self._clock.now_ns()
        found: dict[Place, list[_Lent]] = {}
        raw = db.execute(_DUE, (group, now_ns, json.dumps(list(lanes)))).fetchone()[0]
        for lane, priority, sequence, attempt in sorted(json.loads(raw), key=itemgetter(2)):
            if attempt < self._config.max_deliveries:
                found.setdefault((lane, priority), []).append((sequence, attempt + 1))
                continue
            db.execute(_PUT_ASIDE, (group, now_ns, sequence))
            db.execute("DELETE FROM deliveries WHERE name = ? AND sequence = ?", (group, sequence))
        return found

    def _given(self, db: sqlite3.Connection, group: str, lanes: Sequence[BusLane]) -> dict[Place, int]:
        """Where there is more for the group, and how far it was given that; a new group begins at the oldest."""
        while True:
            rows = json.loads(db.execute(_GIVEN, (group, json.dumps(list(lanes)))).fetchone()[0])
            if len(rows) == len(lanes) * len(PRIORITIES):
                return {(lane, priority): sequence for lane, priority, sequence, has_more in rows if has_more}
            new = [(group, lane, priority) for lane in lanes for priority in PRIORITIES]
            db.executemany("INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, 0)", new)

    def _lend_new(
        self, db: sqlite3.Connection, reader: tuple[str, str], place: Place, given: int, limit: int
    ) -> list[_Lent]:
        """Lend a group's consumer what comes next."""
        sequences = json.loads(db.execute(_NEW, (*place, given, limit)).fetchone()[0])
        if sequences:
            db.execute(_LEND, (*reader, self._lease_end_ns(), *place, sequences[0], sequences[-1]))
            db.execute(_MOVE, (sequences[-1], reader[0], *place))
        return [(sequence, 1) for sequence in sequences]

    @property
    def _lease_ns(self) -> int:
        return round(self._config.lease_s * NS_PER_S)

    def _lease_end_ns(self) -> int:
        return self._clock.now_ns() + self._lease_ns


def _open(db: sqlite3.Connection, latest_ns: int) -> None:
    """What consumers held of a process that ended is due again: none of them outlived its line to it.

    What was rejected waits no longer than a lease from now on, also where the clock was put back since.
    """
    schema.create(db)
    db.execute("UPDATE deliveries SET again_ns = 0 WHERE consumer <> ''")
    db.execute("UPDATE deliveries SET again_ns = ? WHERE again_ns > ?", (latest_ns, latest_ns))


def _counted(db: sqlite3.Connection) -> tuple[Counter[int], Counter[int]]:
    """How many envelopes each lane has, and how many bytes; from then on only the writer knows."""
    rows = db.execute(_COUNTS).fetchall()
    return Counter({lane: count for lane, count, _ in rows}), Counter({lane: size for lane, _, size in rows})


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
