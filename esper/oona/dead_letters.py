"""What the embedded bus put aside: read from its file, also while a service owns it, and settled by the service."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from esper.core.errors import StorageError
from esper.core.storage.read_only import looked_at
from esper.leyline import BusEnvelope
from esper.oona.bus import BusConfig, DeadLetter

PAGE = 200
Position = tuple[int, int, str]
"""Where a letter stands among all: time, position of its envelope, group."""
START: Position = (-1, -1, "")

_PAGE = (
    "SELECT stored_ns, sequence, name, envelope FROM dead_letters WHERE (stored_ns, sequence, name) > (?, ?, ?)"
    " AND (name = ? OR ? IS NULL) ORDER BY stored_ns, sequence, name LIMIT ?"
)
_TRIM = (
    "DELETE FROM dead_letters WHERE (name, sequence) IN (SELECT name, sequence FROM (SELECT name, sequence,"
    " COUNT(*) OVER newer AS place, SUM(LENGTH(envelope)) OVER newer AS size FROM dead_letters"
    " WINDOW newer AS (ORDER BY stored_ns DESC, sequence DESC ROWS UNBOUNDED PRECEDING))"
    " WHERE place > ? OR size > ?)"
)


def read(path: Path) -> list[DeadLetter]:
    """Every dead letter that is still kept, oldest first. The file isn't changed."""
    try:
        with looked_at(path) as connection:
            found, after = list[DeadLetter](), START
            while some := page(connection, group=None, after=after):
                found += [letter for letter, _ in some]
                after = some[-1][1]
            return found
    except sqlite3.Error as error:
        raise StorageError(f"{path} can't be read as a bus: {error}") from error


def page(db: sqlite3.Connection, *, group: str | None, after: Position) -> list[tuple[DeadLetter, Position]]:
    """The next letters after one, each with its place."""
    rows = db.execute(_PAGE, (*after, group, group, PAGE)).fetchall()
    return [
        (_letter(name, stored_ns, sequence, raw), (stored_ns, sequence, name))
        for stored_ns, sequence, name, raw in rows
    ]


def requeue(db: sqlite3.Connection, group: str, event_ids: Sequence[str]) -> list[str]:
    """Lend letters to nobody, due at once and never tried; an envelope that was trimmed comes back to its position."""
    found = _found(db, group, event_ids)
    for event_id, (sequence, raw) in found.items():
        envelope = BusEnvelope.FromString(raw)
        row = (sequence, event_id, envelope.lane, envelope.priority, envelope.time.ToNanoseconds(), raw)
        db.execute("INSERT OR IGNORE INTO envelopes VALUES (?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO deliveries VALUES (?, ?, ?, ?, '', 0, 0)", (group, sequence, event_id, envelope.lane))
    return _forget(db, group, found)


def drop(db: sqlite3.Connection, group: str, event_ids: Sequence[str]) -> list[str]:
    """Forget letters."""
    return _forget(db, group, _found(db, group, event_ids))


def trim(db: sqlite3.Connection, before_ns: int, config: BusConfig) -> None:
    """Forget the old, and the oldest of too many or of too many bytes."""
    db.execute("DELETE FROM dead_letters WHERE stored_ns < ?", (before_ns,))
    db.execute(_TRIM, (config.max_dead_letters, config.max_lane_bytes))


def _found(db: sqlite3.Connection, group: str, event_ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """Position and bytes of those that are letters of the group."""
    wanted, found = set(event_ids), {}
    for sequence, raw in db.execute("SELECT sequence, envelope FROM dead_letters WHERE name = ?", (group,)):
        event_id = BusEnvelope.FromString(raw).event_id
        if event_id in wanted:
            found[event_id] = (sequence, raw)
    return found


def _forget(db: sqlite3.Connection, group: str, found: dict[str, tuple[int, bytes]]) -> list[str]:
    rows = [(group, sequence) for sequence, _ in found.values()]
    db.executemany("DELETE FROM dead_letters WHERE name = ? AND sequence = ?", rows)
    return list(found)


def _letter(group: str, stored_ns: int, sequence: int, raw: bytes) -> DeadLetter:
    envelope = BusEnvelope.FromString(raw)
    envelope.sequence = sequence
    return DeadLetter(group, stored_ns, envelope)
