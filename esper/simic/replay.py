"""The replay store: every field report that can teach something, once, and every one that can't with the reason.

One SQLite file. A report is on the disk before the bus is told that it was handled; the same report again changes
nothing, another one under the same id is refused.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from google.protobuf.message import DecodeError

from esper.core.clock import Clock
from esper.core.errors import CommandRejected, ContractError, CorruptRecord, InvalidSignature, StorageError
from esper.core.messages.validation import require_valid
from esper.core.security.keys import Keyring
from esper.core.storage.storage_faults import REMEDY
from esper.core.storage.store import SqliteStore
from esper.leyline import BusEnvelope, FieldReport
from esper.oona.envelope import check
from esper.simic.scrutiny import fault_of

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS reports (report_id TEXT PRIMARY KEY, run_id TEXT NOT NULL, digest TEXT NOT NULL,"
    " version TEXT NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS refused (event_id TEXT PRIMARY KEY, reason TEXT NOT NULL, at_ns INTEGER NOT NULL)"
    " WITHOUT ROWID",
)
_COLUMNS = {
    "reports": ("report_id", "run_id", "digest", "version", "payload"),
    "refused": ("event_id", "reason", "at_ns"),
}


@dataclass(slots=True)
class Intake:
    """What became of envelopes since the start."""

    taken: int = 0
    repeated: int = 0
    refused: int = 0
    other: int = 0
    """Envelopes that hold no field report."""


class ReplayStore:
    """Reports on the disk."""

    def __init__(self, path: Path, clock: Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._store = SqliteStore(path, partial(_create, path))
        self.intake = Intake()

    def take(self, envelope: BusEnvelope, keyring: Keyring) -> None:
        """Keep the report in an envelope, or why it is none; on the disk when this returns."""
        if envelope.payload_type != FieldReport.DESCRIPTOR.full_name:
            self.intake.other += 1
            return
        try:
            check(keyring, envelope, self._clock.now_ns())
            report = FieldReport.FromString(envelope.payload)
            require_valid(report)
        except (CommandRejected, InvalidSignature, ContractError, DecodeError, ValueError) as error:
            self._refuse(envelope.event_id, f"unsound: {error}")
            return
        fault = fault_of(report)
        if fault is not None:
            self._refuse(envelope.event_id, fault)
            return
        self.put(report, event_id=envelope.event_id)

    def put(self, report: FieldReport, *, event_id: str) -> None:
        """Keep a report that was looked through."""
        payload = report.SerializeToString(deterministic=True)
        digest = hashlib.sha256(payload).hexdigest()
        row = (report.report_id, report.training_run_id, digest, report.observation.version, payload)

        def insert(connection: sqlite3.Connection) -> str:
            known = connection.execute("SELECT digest FROM reports WHERE report_id = ?", row[:1]).fetchone()
            if known is None:
                connection.execute("INSERT INTO reports VALUES (?, ?, ?, ?, ?)", row)
            return digest if known is None else str(known[0])

        before = len(self)
        if self._store.submit(insert).result() != digest:
            self._refuse(event_id, f"another report is kept under the id {report.report_id}")
        elif len(self) > before:
            self.intake.taken += 1
        else:
            self.intake.repeated += 1

    def __len__(self) -> int:
        return int(self._store.read(lambda c: c.execute("SELECT COUNT(*) FROM reports").fetchone()[0]))

    def reports(self) -> Iterator[FieldReport]:
        """All of them, by id."""
        rows = self._store.read(
            lambda c: c.execute("SELECT report_id, payload FROM reports ORDER BY report_id").fetchall()
        )
        return (self._read(*row) for row in rows)

    def refusals(self) -> list[tuple[str, str]]:
        """Id and reason of what was refused."""
        return self._store.read(
            lambda c: c.execute("SELECT event_id, reason FROM refused ORDER BY at_ns, event_id").fetchall()
        )

    def versions(self) -> Counter[str]:
        """Reports by the version of their features; those without an observation have none."""
        rows = self._store.read(
            lambda c: c.execute("SELECT version, COUNT(*) FROM reports GROUP BY version").fetchall()
        )
        return Counter(dict(rows))

    def close(self) -> None:
        self._store.close()

    def _read(self, report_id: str, payload: bytes) -> FieldReport:
        try:
            return FieldReport.FromString(payload)
        except (DecodeError, TypeError) as error:
            raise CorruptRecord(f"{self._store.path} is damaged: report {report_id} can't be read; {REMEDY}") from error

    def _refuse(self, event_id: str, reason: str) -> None:
        row = (event_id, reason, self._clock.now_ns())
        self._store.submit(lambda c: c.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", row)).result()
        self.intake.refused += 1


def _create(path: Path, connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    for table, columns in _COLUMNS.items():
        found = tuple(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
        if found != columns:
            held = f"is no replay store: table {table} has {', '.join(found)}, expected {', '.join(columns)}"
            raise StorageError(f"{path} {held}; name another directory")
