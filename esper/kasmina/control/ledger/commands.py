"""Commands of a run in its ledger: applied once, answered the same for ever, delivered by whoever relays them.

A policy's directives travel in the outcome that its relay gets. Whoever relays an operator's command is not the
executor, so its outcome waits for the next Advance; so does what a resume has to replay.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esper.core.clock import timestamp
from esper.core.errors import CommandIdReused
from esper.kasmina.control.ledger import command_rows, database, replay
from esper.kasmina.control.ledger.command_rows import CommandRow
from esper.kasmina.control.ledger.database import RunRow
from esper.kasmina.control.orders import dispatch
from esper.kasmina.control.stages import moves
from esper.kasmina.control.stages.turn import Turn
from esper.kasmina.metrics import REGISTRY_RESET, REPLAY_DIVERGED, TEACHER_DEREGISTERED, TEACHER_REGISTERED
from esper.leyline import (
    AdaptationCommand,
    CommandOutcome,
    DirectiveKind,
    KasminaRunState,
    RegistryReset,
    RejectionReason,
    SignedCommand,
    TeacherRegistration,
    TeacherReset,
    TraceContext,
)
from esper.urza.catalog import Catalog

RESET_ACTION = "registry_reset"
OPERATOR = "operator:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """A signed request as it came in, with what was found out before its transaction."""

    envelope: SignedCommand
    received_ns: int
    trace: TraceContext | None = None
    artifact_problem: str | None = None
    breakers: tuple[str, ...] = ()
    plane: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """A recorded outcome, and the turn that led to it; no turn where the state did not change."""

    outcome: CommandOutcome
    turn: Turn | None = None


def apply_command(
    connection: sqlite3.Connection, command: AdaptationCommand, receipt: Receipt, catalog: Catalog
) -> Applied:
    """Apply and record the command, or find what was recorded of it."""
    known = command_rows.command_by_id(connection, command.training_run_id, command.command_id)
    if known is not None:
        return _known(known, receipt)
    row = database.run_by_id(connection, command.training_run_id)
    if row is None or not row.is_open:
        detail = f"run {command.training_run_id!r} is not open at this service"
        refused = _refused(command.command_id, RejectionReason.REJECTION_REASON_WRONG_RUN, detail)
        return Applied(outcome=_record(connection, command, receipt, refused, command.step))
    turn = _turn(row, catalog, step_of(command, row.state), receipt)
    outcome = _record(connection, command, receipt, replay.applied(connection, turn, command), turn.step)
    if not outcome.accepted:
        return Applied(outcome=outcome)
    if command.HasField("circuit_breaker"):
        order = command.circuit_breaker
        database.put_breaker(connection, order.breaker, order.desired_state)
    turn.state.applied_seq = outcome.ledger_seq
    database.put_state(connection, turn.state)
    return Applied(outcome=outcome, turn=turn)


def step_of(command: AdaptationCommand, state: KasminaRunState) -> int:
    """When a command happens: a policy's at its packet, an operator's now."""
    return max(state.step, command.step) if dispatch.is_from_policy(command) else state.step


def intervene(
    connection: sqlite3.Connection,
    row: RunRow,
    message: TeacherRegistration | TeacherReset | RegistryReset,
    receipt: Receipt,
    catalog: Catalog,
) -> Applied:
    """What is asked of a run by a request of its own; recorded like a command, so that a resume replays it."""
    turn = _turn(row, catalog, row.state.step, receipt)
    way = next(way for way in INTERVENTIONS if way.message is type(message))
    command_id = f"{way.action}-{receipt.envelope.security.nonce}"
    way.act(turn, command_id, message)
    outcome = CommandOutcome(
        command_id=command_id, accepted=True, directives=turn.directives, transitions=turn.transitions
    )
    _stamp(outcome, receipt)
    command_rows.insert_command(
        connection,
        row.run_id,
        receipt.envelope,
        outcome,
        issued_by=way.issued_by,
        action=way.action,
        step=turn.step,
        is_due=way.is_delivered,
    )
    turn.state.applied_seq = outcome.ledger_seq
    database.put_state(connection, turn.state)
    return Applied(outcome=outcome, turn=turn)


def deliver_due(connection: sqlite3.Connection, turn: Turn) -> list[CommandOutcome]:
    """Outcomes that wait for the Advance of this step; rows that a resume rewound are applied again first."""
    delivered = []
    for row in command_rows.due_commands(connection, turn.spec.training_run_id, turn.step):
        if row.is_unapplied:
            _apply_again(turn, row)
        row.outcome.delivery_step = turn.step
        command_rows.put_outcome(connection, row.outcome)
        command_rows.mark_delivered(connection, row, turn.step)
        delivered.append(row.outcome)
    return delivered


def _apply_again(turn: Turn, row: CommandRow) -> None:
    """Bring the rewound state past a recorded row. Should it come out differently, what happens now counts, loudly."""
    state = KasminaRunState()
    state.CopyFrom(turn.state)
    again = Turn(spec=turn.spec, state=state, catalog=turn.catalog, step=0, breakers=turn.breakers)
    way = next((way for way in INTERVENTIONS if way.action == row.action), None)
    if way is not None:
        again.step = state.step
        way.act(again, row.command_id, way.message.FromString(row.envelope.payload))
        outcome = CommandOutcome(accepted=True, directives=again.directives)
    else:
        command = AdaptationCommand.FromString(row.envelope.payload)
        again.step = step_of(command, state)
        outcome = dispatch.apply(again, command, is_replay=True)
    if not outcome.accepted or list(outcome.directives) != list(row.outcome.directives):
        message = f"recorded with {len(row.outcome.directives)} directives, now {outcome.detail or 'others'}"
        turn.tell(REPLAY_DIVERGED, message, command_id=row.command_id)
        _correct(row.outcome, outcome)
    if outcome.accepted:
        turn.state.CopyFrom(state)
        turn.notices += again.notices
    turn.state.applied_seq = max(turn.state.applied_seq, row.seq)


def _correct(recorded: CommandOutcome, outcome: CommandOutcome) -> None:
    """A recorded outcome that the state no longer bears out must not be delivered: the executor would act on it."""
    for name in ("rejection", "detail", "directives", "transitions"):
        recorded.ClearField(name)
    recorded.MergeFrom(
        CommandOutcome(
            accepted=outcome.accepted,
            rejection=outcome.rejection,
            detail=outcome.detail if outcome.HasField("detail") else None,
            directives=outcome.directives,
            transitions=outcome.transitions,
        )
    )


def _cull_all(turn: Turn, command_id: str, reset: RegistryReset) -> None:
    removed = moves.cull_all(turn, command_id, f"registry reset: {reset.rationale}")
    turn.tell(REGISTRY_RESET, reset.rationale, removed=removed)


def _register_teacher(turn: Turn, command_id: str, teacher: TeacherRegistration) -> None:
    turn.state.growth.teacher_digest = teacher.weights_digest
    message = f"{teacher.size_bytes:,} bytes, digest {teacher.weights_digest}"
    turn.tell(TEACHER_REGISTERED, message, teacher_id=teacher.teacher_id)


def _forget_teacher(turn: Turn, command_id: str, reset: TeacherReset) -> None:
    """Seeds that incubate go on by the task alone."""
    turn.state.growth.ClearField("teacher_digest")
    turn.direct(DirectiveKind.DIRECTIVE_KIND_DROP_TEACHER, command_id, rationale=reset.rationale)
    turn.tell(TEACHER_DEREGISTERED, reset.rationale)


@dataclass(frozen=True, slots=True)
class Intervention:
    """A request that changes a run and is no command: who stands for it, and whether it is told to the trainer."""

    action: str
    message: type[Any]
    act: Callable[[Turn, str, Any], None]
    issued_by: str
    is_delivered: bool


INTERVENTIONS = (
    Intervention(RESET_ACTION, RegistryReset, _cull_all, f"{OPERATOR}{RESET_ACTION}", is_delivered=True),
    # Whoever registers a teacher holds its weights: that is the trainer.
    Intervention("teacher_registration", TeacherRegistration, _register_teacher, "tolaria", is_delivered=False),
    Intervention("teacher_reset", TeacherReset, _forget_teacher, f"{OPERATOR}teacher_reset", is_delivered=True),
)


def _turn(row: RunRow, catalog: Catalog, step: int, receipt: Receipt) -> Turn:
    return Turn(
        spec=row.spec,
        state=row.state,
        catalog=catalog.with_own(row.spec.own_blueprints),
        step=step,
        breakers=receipt.breakers,
        artifact_problem=receipt.artifact_problem,
        plane=receipt.plane,
    )


def _known(row: CommandRow, receipt: Receipt) -> Applied:
    if row.payload_sha256 != command_rows.payload_digest(receipt.envelope):
        reason = RejectionReason.REJECTION_REASON_COMMAND_ID_REUSED
        detail = f"command id {row.command_id!r} is recorded with another payload; a retry must send the same one"
        raise CommandIdReused(reason, detail, row.command_id)
    row.outcome.repeated_id = True
    return Applied(outcome=row.outcome)


def _record(
    connection: sqlite3.Connection, command: AdaptationCommand, receipt: Receipt, outcome: CommandOutcome, step: int
) -> CommandOutcome:
    _stamp(outcome, receipt)
    return command_rows.insert_command(
        connection,
        command.training_run_id,
        receipt.envelope,
        outcome,
        issued_by=command.issued_by,
        action=command.WhichOneof("action") or "",
        step=step,
        is_due=outcome.accepted and not dispatch.is_from_policy(command),
    )


def _stamp(outcome: CommandOutcome, receipt: Receipt) -> None:
    outcome.recorded_at.CopyFrom(timestamp(receipt.received_ns))
    if receipt.trace is not None:
        outcome.trace.CopyFrom(receipt.trace)


def _refused(command_id: str, reason: RejectionReason, detail: str) -> CommandOutcome:
    return CommandOutcome(command_id=command_id, accepted=False, rejection=reason, detail=detail)
