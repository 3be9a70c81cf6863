"""Open emergencies, kept on disk until someone resolves them."""

from __future__ import annotations

import sqlite3

from esper.core.dependency_guard import require
from esper.core.storage.store import SqliteStore
from esper.leyline import EmergencyAcknowledgement, EmergencySignal


def create(connection: sqlite3.Connection) -> None:
    """Make the table if it is missing."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS emergencies (emergency_id TEXT PRIMARY KEY, signal BLOB NOT NULL,"
        " acknowledged_by TEXT, resolved INTEGER NOT NULL DEFAULT 0)"
    )


class EmergencyBook:
    """Emergencies by id. Writes happen inside the transaction that registers the request's nonce."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def unresolved(self) -> list[EmergencySignal]:
        """Open emergencies, gravest first."""
        query = "SELECT signal FROM emergencies WHERE resolved = 0"
        rows = self._store.read(lambda db: db.execute(query).fetchall())
        found = [EmergencySignal.FromString(raw) for (raw,) in rows]
        return sorted(found, key=lambda signal: (-signal.level, signal.emergency_id))

    def raise_in(self, db: sqlite3.Connection, signal: EmergencySignal) -> bool:
        """Enter an emergency; False if its id is known, open or not."""
        insert = "INSERT OR IGNORE INTO emergencies (emergency_id, signal) VALUES (?, ?)"
        return db.execute(insert, (signal.emergency_id, signal.SerializeToString())).rowcount == 1

    def run_of(self, db: sqlite3.Connection, emergency_id: str) -> str | None:
        """The run that an emergency is about; None for the whole plane."""
        row = db.execute("SELECT signal FROM emergencies WHERE emergency_id = ?", (emergency_id,)).fetchone()
        found = require(row, "weatherlight", "emergency", emergency_id, "GetStatus lists the open ones")
        signal = EmergencySignal.FromString(found[0])
        return signal.training_run_id if signal.HasField("training_run_id") else None

    def acknowledge_in(self, db: sqlite3.Connection, word: EmergencyAcknowledgement) -> None:
        """Note who has it in hand, and whether it is over. What is over stays over."""
        update = "UPDATE emergencies SET acknowledged_by = ?, resolved = MAX(resolved, ?) WHERE emergency_id = ?"
        db.execute(update, (word.acknowledged_by, int(word.resolved), word.emergency_id))
