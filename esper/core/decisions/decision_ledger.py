"""The decision ledger: each decision of a service with everything that it was made of, so that it can be made again.

A row is written in the transaction that stores what was decided, and stands by itself: the state before, what came in,
the decision, the state after. Rows go out at the end, the newest `MAX_ROWS` stay; a spec that none of them needs goes
when the next generation begins.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.core.errors import CorruptRecord, StorageError
from esper.core.storage.read_only import looked_at

MAX_ROWS = 20_000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS decision_specs (run_id TEXT NOT NULL, generation INTEGER NOT NULL, spec BLOB NOT NULL,"
    " PRIMARY KEY (run_id, generation)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS decisions (seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL,"
    " generation INTEGER NOT NULL, step INTEGER NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,"
    " circumstances TEXT NOT NULL, record BLOB NOT NULL)",
)
_FORGET_SPECS = (
    "DELETE FROM decision_specs WHERE (run_id, generation) NOT IN (SELECT run_id, generation FROM decisions)"
)
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """One decision, its messages serialised. `version` says by which rules; the spec is stored once a generation."""

    run_id: str
    generation: int
    step: int
    kind: str
    version: int
    before: bytes
    given: bytes
    decision: bytes
    after: bytes
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    """What else it depended on: plain values, none of them a default."""
    spec: bytes = b""
    seq: int = 0


def create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


def append(connection: sqlite3.Connection, decided: Decided, spec: Callable[[], bytes]) -> None:
    """Add a row, in the caller's transaction. `spec` is what its generation of the run was opened with."""
    run = (decided.run_id, decided.generation)
    if connection.execute("SELECT 1 FROM decision_specs WHERE run_id = ? AND generation = ?", run).fetchone() is None:
        connection.execute(_FORGET_SPECS)
        connection.execute("INSERT INTO decision_specs VALUES (?, ?, ?)", (*run, spec()))
    parts = (decided.before, decided.given, decided.decision, decided.after)
    # Together: the state after is nearly the state before, which costs next to nothing in one stream.
    record = zlib.compress(b"".join(_LENGTH.pack(len(part)) + part for part in parts))
    circumstances = json.dumps(decided.circumstances, sort_keys=True)
    added = connection.execute(
        "INSERT INTO decisions (run_id, generation, step, kind, version, circumstances, record)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*run, decided.step, decided.kind, decided.version, circumstances, record),
    )
    connection.execute("DELETE FROM decisions WHERE seq <= ?", (int(added.lastrowid or 0) - MAX_ROWS,))


def rows(ledger: Path) -> Iterator[Decided]:
    """Every row of a service's database, oldest first. Raises StorageError, CorruptRecord."""
    query = (
        "SELECT seq, run_id, generation, step, kind, version, circumstances, record, spec FROM decisions"
        " LEFT JOIN decision_specs USING (run_id, generation) ORDER BY seq"
    )
    try:
        with looked_at(ledger) as connection:
            for row in connection.execute(query):
                yield _row(ledger, *row)
    except sqlite3.Error as error:
        raise StorageError(f"{ledger} can't be read as a ledger of decisions: {error}") from error


def kinds(ledger: Path) -> Counter[str]:
    """How many rows there are of each kind. Raises StorageError."""
    try:
        with looked_at(ledger) as connection:
            return Counter(dict(connection.execute("SELECT kind, count(*) FROM decisions GROUP BY kind")))
    except sqlite3.Error as error:
        raise StorageError(f"{ledger} can't be read as a ledger of decisions: {error}") from error


def _row(
    ledger: Path,
    seq: int,
    run_id: str,
    generation: int,
    step: int,
    kind: str,
    version: int,
    circumstances: str,
    record: bytes,
    spec: bytes | None,
) -> Decided:
    if spec is None:
        raise CorruptRecord(f"{ledger}, row {seq}: the spec of run {run_id!r}, generation {generation}, is missing")
    try:
        before, given, decision, after = _parts(zlib.decompress(record))
        told = json.loads(circumstances)
    except (zlib.error, struct.error, ValueError) as error:
        raise CorruptRecord(f"{ledger}, row {seq} is damaged: {error}; take the ledger from a backup") from error
    return Decided(
        seq=seq,
        run_id=run_id,
        generation=generation,
        step=step,
        kind=kind,
        version=version,
        before=before,
        given=given,
        decision=decision,
        after=after,
        circumstances=told,
        spec=spec,
    )


def _parts(record: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(record):
        (size,) = _LENGTH.unpack_from(record, at)
        at += _LENGTH.size + size
        parts.append(record[at - size : at])
    return parts
