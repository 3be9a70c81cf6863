"""Tables of the SQLite log."""

from __future__ import annotations

import sqlite3

_STATEMENTS = (
    # AUTOINCREMENT: a position is never given twice, not even after a trim.
    "CREATE TABLE IF NOT EXISTS envelopes (sequence INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE,"
    " lane INTEGER NOT NULL, priority INTEGER NOT NULL, stored_ns INTEGER NOT NULL, envelope BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS envelopes_by_lane ON envelopes (lane, priority, sequence)",
    # How far each group has been given each lane and priority.
    "CREATE TABLE IF NOT EXISTS cursors (name TEXT NOT NULL, lane INTEGER NOT NULL, priority INTEGER NOT NULL,"
    " sequence INTEGER NOT NULL, PRIMARY KEY (name, lane, priority)) WITHOUT ROWID",
    # What a group was given and has not acknowledged.
    "CREATE TABLE IF NOT EXISTS deliveries (name TEXT NOT NULL, sequence INTEGER NOT NULL, event_id TEXT NOT NULL,"
    " lane INTEGER NOT NULL, consumer TEXT NOT NULL, attempt INTEGER NOT NULL, again_ns INTEGER NOT NULL,"
    " PRIMARY KEY (name, sequence)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries (name, event_id)",
    "CREATE TABLE IF NOT EXISTS dead_letters (name TEXT NOT NULL, sequence INTEGER NOT NULL,"
    " stored_ns INTEGER NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY (name, sequence)) WITHOUT ROWID",
    # When each group asked for something last.
    "CREATE TABLE IF NOT EXISTS seen (name TEXT PRIMARY KEY, asked_ns INTEGER NOT NULL) WITHOUT ROWID",
)


def create(connection: sqlite3.Connection) -> None:
    """Make what is missing."""
    for statement in _STATEMENTS:
        connection.execute(statement)
