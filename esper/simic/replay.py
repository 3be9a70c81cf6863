"""The replay store: every field report that can teach something, once, and every one that can't with the reason.

One SQLite file. A report is on the disk before the bus is told that it was handled; the same report again changes
nothing, another one under the same id is refused. It is bounded: whole runs give way (`bounds`), and refusals.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from esper.core.clock import Clock
from esper.core.errors import CommandRejected, ContractError, CorruptRecord, InvalidSignature, StorageError
from esper.core.messages.validation import require_valid
from esper.core.security.keys import Keyring
from esper.core.storage.read_only import looked_at
from esper.core.storage.seal import require_unbroken
from esper.core.storage.storage_faults import REMEDY, opening_fault
from esper.core.storage.store import SqliteStore
from esper.leyline import BusEnvelope, FieldReport
from esper.oona.envelope import check
from esper.simic.bounds import MIN_RUNS, Bounds, kept_runs, surplus
from esper.simic.scrutiny import fault_of

_TABLES = {
    "reports": (
        *("report_id TEXT PRIMARY KEY", "run_id TEXT NOT NULL", "digest TEXT NOT NULL"),
        *("version TEXT NOT NULL", "payload BLOB NOT NULL"),
    ),
    "refused": ("event_id TEXT PRIMARY KEY", "reason TEXT NOT NULL", "at_ns INTEGER NOT NULL"),
}
MAX_REFUSALS = 10_000
_FORGET_REFUSALS = (
    "DELETE FROM refused WHERE event_id IN (SELECT event_id FROM refused ORDER BY at_ns DESC, event_id DESC"
    f" LIMIT -1 OFFSET {MAX_REFUSALS})"
)
T = TypeVar("T")
Read = Callable[[Callable[[sqlite3.Connection], T]], T]


@dataclass(slots=True)
class Intake:
    """What became of envelopes since the start."""

    taken: int = 0
    repeated: int = 0
    refused: int = 0
    dropped: int = 0
    """Reports that gave way to newer ones."""
    dropped_runs: int = 0
    other: int = 0
    """Envelopes that hold no field report."""


class Reports:
    """Reports on the disk, as somebody reads them."""

    def __init__(self, path: Path, read: Read[Any]) -> None:
        self._path = path
        self._read = read

    def __len__(self) -> int:
        return int(self._read(lambda c: c.execute("SELECT COUNT(*) FROM reports").fetchone()[0]))

    def reports(self) -> Iterator[FieldReport]:
        """All of them, by id."""
        rows = self._read(lambda c: c.execute("SELECT report_id, payload FROM reports ORDER BY report_id").fetchall())
        return (self._parsed(*row) for row in rows)

    def refusals(self) -> list[tuple[str, str]]:
        """Id and reason of what was refused."""
        query = "SELECT event_id, reason FROM refused ORDER BY at_ns, event_id"
        return list(self._read(lambda c: c.execute(query).fetchall()))

    def versions(self) -> Counter[str]:
        """Reports by the version of their features; those without an observation have none."""
        rows = self._read(lambda c: c.execute("SELECT version, COUNT(*) FROM reports GROUP BY version").fetchall())
        return Counter(dict(rows))

    def _parsed(self, report_id: str, payload: bytes) -> FieldReport:
        try:
            return FieldReport.FromString(payload)
        except (DecodeError, TypeError) as error:
            raise CorruptRecord(f"{self._path} is damaged: report {report_id} can't be read; {REMEDY}") from error


@contextmanager
def looked_through(path: Path) -> Iterator[Reports]:
    """A store that is only read, where nothing may be written too. Raises StorageError."""
    with ExitStack() as stack:
        try:
            require_unbroken(path)
            connection = stack.enter_context(looked_at(path))
            _require_tables(path, connection)
        except (OSError, sqlite3.Error) as error:
            raise opening_fault(path, error) from error
        yield Reports(path, lambda work: work(connection))


class ReplayStore(Reports):
    """The store, to be added to."""

    def __init__(self, path: Path, clock: Clock, bounds: Bounds | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._store = SqliteStore(path, partial(_create, path))
        self.intake = Intake()
        self.bounds = bounds or Bounds()
        super().__init__(path, self._store.read)
        self._held = self._store.read(_counted)

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
            if known is not None:
                return "repeated" if known[0] == digest else f"another report is kept under the id {report.report_id}"
            if not self._has_room(connection, len(payload)):
                return f"the newest {MIN_RUNS} runs, which stay, fill the store: {self.bounds}"
            connection.execute("INSERT INTO reports VALUES (?, ?, ?, ?, ?)", row)
            return "taken"

        fate = self._store.submit(insert).result()
        if fate == "taken":
            count, size_bytes = self._held
            self._held = count + 1, size_bytes + len(payload)
            self.intake.taken += 1
        elif fate == "repeated":
            self.intake.repeated += 1
        else:
            self._refuse(event_id, fate)

    def _has_room(self, connection: sqlite3.Connection, further_bytes: int) -> bool:
        """Whether there is room for another report, once what gives way is gone."""
        count, size_bytes = self._held
        if not self.bounds.holds(count + 1, size_bytes + further_bytes):
            runs = kept_runs(connection, self._parsed)
            for run in surplus(runs, self.bounds, reports=count + 1, size_bytes=size_bytes + further_bytes):
                connection.execute("DELETE FROM reports WHERE run_id = ?", (run.run_id,))
                self.intake.dropped += run.reports
                self.intake.dropped_runs += 1
            self._held = count, size_bytes = _counted(connection)
        return self.bounds.holds(count + 1, size_bytes + further_bytes)

    def close(self) -> None:
        self._store.close()

    def _refuse(self, event_id: str, reason: str) -> None:
        row = (event_id, reason, self._clock.now_ns())

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", row)
            connection.execute(_FORGET_REFUSALS)

        self._store.submit(insert).result()
        self.intake.refused += 1


def _counted(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many reports there are, and their bytes."""
    count, size_bytes = connection.execute("SELECT COUNT(*), SUM(LENGTH(payload)) FROM reports").fetchone()
    return count, size_bytes or 0


def _create(path: Path, connection: sqlite3.Connection) -> None:
    for table, columns in _TABLES.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}) WITHOUT ROWID")
    _require_tables(path, connection)


def _require_tables(path: Path, connection: sqlite3.Connection) -> None:
    for table, columns in _TABLES.items():
        names = [column.partition(" ")[0] for column in columns]
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if found != names:
            held = f"is no replay store: table {table} has {', '.join(found) or 'nothing'}, expected {', '.join(names)}"
            raise StorageError(f"{path} {held}; name another directory")
