"""The command ledger's rows: what was commanded and answered, what is still to be delivered, what is replayed.

Like `database`, every function works on a connection inside its caller's transaction.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

from esper.leyline import AdaptationCommand, CommandOutcome, SignedCommand

GIVEN_UP = "course_given_up"


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandRow:
    """A ledger row. `is_due`: Advance has to deliver it; `is_unapplied`: a resume rewound the state below it."""

    seq: int
    run_id: str
    command_id: str
    payload_sha256: str
    envelope: SignedCommand
    issued_by: str
    action: str
    outcome: CommandOutcome
    decision_step: int
    delivery_step: int | None
    is_due: bool
    is_unapplied: bool


def payload_digest(envelope: SignedCommand) -> str:
    return hashlib.sha256(envelope.payload).hexdigest()


_COMMAND = (
    "SELECT seq, run_id, command_id, payload_sha256, envelope, issued_by, action, outcome, decision_step,"
    " delivery_step, is_due, is_unapplied FROM commands"
)


def command_by_id(connection: sqlite3.Connection, run_id: str, command_id: str) -> CommandRow | None:
    where = f"{_COMMAND} WHERE run_id = ? AND command_id = ?"
    row = connection.execute(where, (run_id, command_id)).fetchone()
    return None if row is None else _command(row)


def due_commands(connection: sqlite3.Connection, run_id: str, step: int) -> list[CommandRow]:
    """Rows that the Advance of this step delivers, in the order of the ledger."""
    where = f"{_COMMAND} WHERE run_id = ? AND is_due AND decision_step <= ? ORDER BY seq"
    return [_command(row) for row in connection.execute(where, (run_id, step))]


def all_due_commands(connection: sqlite3.Connection, run_id: str) -> list[CommandRow]:
    where = f"{_COMMAND} WHERE run_id = ? AND is_due ORDER BY seq"
    return [_command(row) for row in connection.execute(where, (run_id,))]


def emergency_orders(connection: sqlite3.Connection) -> list[AdaptationCommand]:
    """Emergencies that were ordered for runs that are open."""
    query = (
        "SELECT envelope FROM commands JOIN runs USING (run_id) WHERE is_open AND accepted AND action = 'emergency'"
        " ORDER BY seq"
    )
    envelopes = (SignedCommand.FromString(raw) for (raw,) in connection.execute(query))
    return [AdaptationCommand.FromString(envelope.payload) for envelope in envelopes]


def _command(row: tuple[int, str, str, str, bytes, str, str, bytes, int, int | None, int, int]) -> CommandRow:
    seq, run_id, command_id, digest, envelope, issued_by, action, outcome, decided, delivered, due, unapplied = row
    return CommandRow(
        seq=seq,
        run_id=run_id,
        command_id=command_id,
        payload_sha256=digest,
        envelope=SignedCommand.FromString(envelope),
        issued_by=issued_by,
        action=action,
        outcome=CommandOutcome.FromString(outcome),
        decision_step=decided,
        delivery_step=delivered,
        is_due=bool(due),
        is_unapplied=bool(unapplied),
    )


def insert_command(
    connection: sqlite3.Connection,
    run_id: str,
    envelope: SignedCommand,
    outcome: CommandOutcome,
    *,
    issued_by: str,
    action: str,
    step: int,
    is_due: bool,
) -> CommandOutcome:
    """Record a command with its outcome; the outcome comes back with its row number."""
    delivery_step = None if is_due else step
    row = (
        *(run_id, outcome.command_id, payload_digest(envelope), envelope.SerializeToString(), issued_by, action),
        *(outcome.accepted, b"", step, delivery_step, is_due),
    )
    cursor = connection.execute(
        "INSERT INTO commands (run_id, command_id, payload_sha256, envelope, issued_by, action, accepted, outcome,"
        " decision_step, delivery_step, is_due, is_unapplied) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        row,
    )
    outcome.ledger_seq = int(cursor.lastrowid or 0)
    outcome.issued_by = issued_by
    if delivery_step is not None:
        outcome.delivery_step = delivery_step
    put_outcome(connection, outcome)
    return outcome


def put_outcome(connection: sqlite3.Connection, outcome: CommandOutcome) -> None:
    connection.execute(
        "UPDATE commands SET outcome = ? WHERE seq = ?", (outcome.SerializeToString(), outcome.ledger_seq)
    )


def mark_delivered(connection: sqlite3.Connection, row: CommandRow, step: int) -> None:
    """Delivered now; a row without a policy's packet counts as decided now, for a later replay."""
    decision_step = row.decision_step if row.delivery_step is not None else step
    connection.execute(
        "UPDATE commands SET decision_step = ?, delivery_step = ?, is_due = 0, is_unapplied = 0 WHERE seq = ?",
        (decision_step, step, row.seq),
    )


def rewind(connection: sqlite3.Connection, run_id: str, *, applied_seq: int, step: int) -> None:
    """Make due again what a checkpoint at this row and step doesn't hold.

    A rollback abandons what precedes it. Where a course was given up since the checkpoint, the policy decides anew;
    operators' orders hold in every course.
    """
    abandon_due(connection, run_id)
    last_rollback = _last_of(connection, run_id, "rollback")
    is_given_up = _last_of(connection, run_id, GIVEN_UP) > applied_seq
    issuers = " AND issued_by LIKE 'operator:%'" if is_given_up else ""
    connection.execute(
        "UPDATE commands SET is_due = 1, is_unapplied = 1 WHERE run_id = ? AND accepted AND seq > ? AND seq > ?"
        f"{issuers}",
        (run_id, applied_seq, last_rollback),
    )
    connection.execute(
        "UPDATE commands SET is_due = 1 WHERE run_id = ? AND accepted AND seq <= ? AND seq > ?"
        " AND (delivery_step IS NULL OR delivery_step > ?)",
        (run_id, applied_seq, last_rollback, step),
    )


def _last_of(connection: sqlite3.Connection, run_id: str, action: str) -> int:
    where = "WHERE run_id = ? AND accepted AND action = ?"
    return int(
        connection.execute(f"SELECT coalesce(max(seq), 0) FROM commands {where}", (run_id, action)).fetchone()[0]
    )


def give_up_course(
    connection: sqlite3.Connection, run_id: str, envelope: SignedCommand, *, applied_seq: int, step: int
) -> int:
    """Record that a run goes on otherwise from a checkpoint at this row and step; returns the record's own row.

    What operators ordered since then is due at once.
    """
    command_id = f"{GIVEN_UP}-{payload_digest(envelope)}"
    known = command_by_id(connection, run_id, command_id)
    if known is not None:
        return known.seq
    outcome = CommandOutcome(command_id=command_id, accepted=True)
    insert_command(connection, run_id, envelope, outcome, issued_by="tolaria", action=GIVEN_UP, step=step, is_due=False)
    rewind(connection, run_id, applied_seq=applied_seq, step=step)
    connection.execute(
        "UPDATE commands SET decision_step = ? WHERE run_id = ? AND is_unapplied AND decision_step > ?",
        (step, run_id, step),
    )
    return outcome.ledger_seq


def abandon_due(connection: sqlite3.Connection, run_id: str) -> None:
    """A run that starts from nothing gets nothing delivered of an earlier one."""
    connection.execute("UPDATE commands SET is_due = 0, is_unapplied = 0 WHERE run_id = ?", (run_id,))


def last_seq(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM commands").fetchone()[0])
