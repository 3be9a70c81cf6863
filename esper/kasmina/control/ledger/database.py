"""Kasmina's tables, and the rows of runs, refused requests and breakers; the ledger's rows are `command_rows`'.

Every function works on a connection inside its caller's transaction, so that a nonce, its command's row and the
run's new state are stored together or not at all.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from esper.core.decisions import decision_ledger
from esper.core.errors import CommandRejected
from esper.leyline import (
    AdvanceResponse,
    CircuitState,
    KasminaRunSpec,
    KasminaRunState,
    SignedCommand,
)

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, token_digest TEXT NOT NULL UNIQUE, spec BLOB NOT NULL,"
    " state BLOB NOT NULL, is_open INTEGER NOT NULL, answer_step INTEGER, answer BLOB) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS commands (seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL,"
    " command_id TEXT NOT NULL, payload_sha256 TEXT NOT NULL, envelope BLOB NOT NULL, issued_by TEXT NOT NULL,"
    " action TEXT NOT NULL, accepted INTEGER NOT NULL, outcome BLOB NOT NULL, decision_step INTEGER NOT NULL,"
    " delivery_step INTEGER, is_due INTEGER NOT NULL, is_unapplied INTEGER NOT NULL, UNIQUE (run_id, command_id))",
    "CREATE INDEX IF NOT EXISTS due_commands ON commands (run_id, seq) WHERE is_due",
    "CREATE TABLE IF NOT EXISTS rejections (seq INTEGER PRIMARY KEY AUTOINCREMENT, received_ns INTEGER NOT NULL,"
    " reason INTEGER NOT NULL, command_id TEXT NOT NULL, envelope BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS breakers (name TEXT PRIMARY KEY, state INTEGER NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """A run as stored; its messages are parsed anew each time, so they are the caller's to change."""

    run_id: str
    token_digest: str
    spec: KasminaRunSpec
    state: KasminaRunState
    is_open: bool
    answer_step: int | None
    answer: AdvanceResponse | None


def create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    decision_ledger.create(connection)


_RUN = "SELECT run_id, token_digest, spec, state, is_open, answer_step, answer FROM runs"


def run_by_id(connection: sqlite3.Connection, run_id: str) -> RunRow | None:
    return _run(connection.execute(f"{_RUN} WHERE run_id = ?", (run_id,)).fetchone())


def run_by_token(connection: sqlite3.Connection, digest: str) -> RunRow | None:
    return _run(connection.execute(f"{_RUN} WHERE token_digest = ?", (digest,)).fetchone())


def _run(row: tuple[str, str, bytes, bytes, int, int | None, bytes | None] | None) -> RunRow | None:
    if row is None:
        return None
    run_id, digest, spec, state, is_open, answer_step, answer = row
    return RunRow(
        run_id=run_id,
        token_digest=digest,
        spec=KasminaRunSpec.FromString(spec),
        state=KasminaRunState.FromString(state),
        is_open=bool(is_open),
        answer_step=answer_step,
        answer=None if answer is None else AdvanceResponse.FromString(answer),
    )


def put_run(connection: sqlite3.Connection, token_digest: str, spec: KasminaRunSpec, state: KasminaRunState) -> None:
    """Open a run, new or again."""
    connection.execute(
        "INSERT INTO runs (run_id, token_digest, spec, state, is_open) VALUES (?, ?, ?, ?, 1) ON CONFLICT (run_id) DO"
        " UPDATE SET token_digest = excluded.token_digest, spec = excluded.spec, state = excluded.state, is_open = 1,"
        " answer_step = NULL, answer = NULL",
        (spec.training_run_id, token_digest, spec.SerializeToString(), state.SerializeToString()),
    )


def put_state(connection: sqlite3.Connection, state: KasminaRunState) -> None:
    connection.execute("UPDATE runs SET state = ? WHERE run_id = ?", (state.SerializeToString(), state.training_run_id))


def put_answer(connection: sqlite3.Connection, run_id: str, answer: AdvanceResponse) -> None:
    """Keep the last answer: only a later request says whether it arrived."""
    connection.execute(
        "UPDATE runs SET answer_step = ?, answer = ? WHERE run_id = ?",
        (answer.step, answer.SerializeToString(), run_id),
    )


def close_run(connection: sqlite3.Connection, run_id: str) -> None:
    connection.execute("UPDATE runs SET is_open = 0 WHERE run_id = ?", (run_id,))


def count_open_runs(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM runs WHERE is_open").fetchone()[0])


def insert_rejection(
    connection: sqlite3.Connection, received_ns: int, rejection: CommandRejected, envelope: SignedCommand
) -> None:
    """An authenticated request whose content could not be used: kept beside its nonce."""
    connection.execute(
        "INSERT INTO rejections (received_ns, reason, command_id, envelope) VALUES (?, ?, ?, ?)",
        (received_ns, rejection.reason, rejection.command_id, envelope.SerializeToString()),
    )


def breaker_state(connection: sqlite3.Connection, name: str = "artifacts") -> CircuitState:
    """The stored state; closed where none was ever stored."""
    row = connection.execute("SELECT state FROM breakers WHERE name = ?", (name,)).fetchone()
    return row[0] if row else CircuitState.CIRCUIT_STATE_CLOSED


def put_breaker(connection: sqlite3.Connection, name: str, state: int) -> None:
    connection.execute("INSERT OR REPLACE INTO breakers VALUES (?, ?)", (name, state))
