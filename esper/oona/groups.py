"""Groups of the SQLite log that nobody reads for any more: found by when each last asked, and forgotten as a whole."""

from __future__ import annotations

import sqlite3

from esper.core.clock import NS_PER_S

# Asking is noted this often, so that a consumer that waits writes nothing.
NOTED_EVERY_NS = 60 * NS_PER_S
_NOTE = (
    "INSERT INTO seen VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET asked_ns = excluded.asked_ns"
    " WHERE excluded.asked_ns - asked_ns > ?"
)
# A group of a log from before this was noted counts as seen now.
_BEGIN = "INSERT OR IGNORE INTO seen SELECT DISTINCT name, ? FROM cursors"
_AHEAD = (
    "SELECT COUNT(*) FROM cursors c JOIN envelopes e ON e.lane = c.lane AND e.priority = c.priority"
    " AND e.sequence > c.sequence WHERE c.name = ?"
)


def note(db: sqlite3.Connection, group: str, now_ns: int) -> None:
    """The group asked for something."""
    db.execute(_NOTE, (group, now_ns, NOTED_EVERY_NS))


def forget(db: sqlite3.Connection, now_ns: int, before_ns: int) -> dict[str, int]:
    """Forget those that asked last before a time; gives how many envelopes each had not handled."""
    db.execute(_BEGIN, (now_ns,))
    names = [name for (name,) in db.execute("SELECT name FROM seen WHERE asked_ns < ? ORDER BY name", (before_ns,))]
    return {name: _forgotten(db, name) for name in names}


def _forgotten(db: sqlite3.Connection, name: str) -> int:
    (ahead,) = db.execute(_AHEAD, (name,)).fetchone()
    held = db.execute("DELETE FROM deliveries WHERE name = ?", (name,)).rowcount
    for table in ("cursors", "seen"):
        db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))
    return int(ahead) + held
