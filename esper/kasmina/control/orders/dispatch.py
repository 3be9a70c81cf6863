"""Dispatch: a believed command against a run's state; one outcome, always.

The handlers are a table by action. A refused command leaves no trace in the state; an accepted one changes a copy,
which the caller stores together with the outcome.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import MappingProxyType

from esper.core.errors import LifecycleConflict
from esper.kasmina.control.orders.operations import Handler, prune, seed_operation
from esper.kasmina.control.stages import moves
from esper.kasmina.control.stages.pause import pause_seed, resume_seed
from esper.kasmina.control.stages.turn import Refusal, Turn
from esper.kasmina.metrics import (
    EMERGENCY_ORDERED,
    GROWTH_PAUSED,
    GROWTH_RESUMED,
    ROLLBACK_ORDERED,
)
from esper.leyline import (
    AdaptationCommand,
    CommandOutcome,
    DirectiveKind,
    EmergencyLevel,
    RejectionReason,
)

R = RejectionReason
POLICY = "tamiyo"
WEATHERLIGHT = "operator:weatherlight"
OPERATOR_PREFIX = "operator:"
OPTIMIZER_RANGES = (
    ("learning_rate_factor", 0.01, 100.0),
    ("momentum", 0.0, math.nextafter(1.0, 0.0)),
    ("weight_decay", 0.0, sys.float_info.max),
)
BREAKER_ACTION = "circuit_breaker"


def is_from_policy(command: AdaptationCommand) -> bool:
    return command.issued_by == POLICY


def issuer_problem(command: AdaptationCommand) -> Refusal | None:
    """Only a policy and named operators issue commands."""
    name = command.issued_by.removeprefix(OPERATOR_PREFIX)
    if is_from_policy(command) or (command.issued_by.startswith(OPERATOR_PREFIX) and name):
        return None
    detail = f"issued_by is {command.issued_by!r}, it must be 'tamiyo' or 'operator:<name>'"
    return Refusal(R.REJECTION_REASON_MALFORMED_PAYLOAD, detail)


def apply(turn: Turn, command: AdaptationCommand, *, is_replay: bool = False) -> CommandOutcome:
    """Carry the command out in the turn. On a refusal the turn is worthless and must be dropped.

    A replayed command was checked when it was recorded: neither its generation nor its deadline counts again.
    """
    refusal = None if is_replay else _precondition(turn, command)
    refusal = refusal or _handled(turn, command)
    if refusal is not None:
        return CommandOutcome(
            command_id=command.command_id, accepted=False, rejection=refusal.reason, detail=refusal.detail
        )
    turn.state.step = max(turn.state.step, turn.step)
    return CommandOutcome(
        command_id=command.command_id,
        accepted=True,
        directives=turn.directives,
        transitions=turn.transitions,
    )


def _precondition(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    if refusal := issuer_problem(command):
        return refusal
    if command.generation != turn.state.generation:
        now = turn.state.generation
        detail = (
            f"decided in generation {command.generation}, the run is in {now}; look at the run as it is now and sign "
            f"anew for generation {now}, which the run's directory says in checkpoints/generation"
        )
        return Refusal(R.REJECTION_REASON_WRONG_GENERATION, detail)
    if is_from_policy(command) and command.step > turn.spec.total_steps:
        detail = f"decided at step {command.step}, the run ends at step {turn.spec.total_steps}"
        return Refusal(R.REJECTION_REASON_MALFORMED_PAYLOAD, detail)
    if command.HasField("deadline_steps") and turn.step > command.step + command.deadline_steps:
        detail = f"to be executed by step {command.step + command.deadline_steps}, the run is at step {turn.step}"
        return Refusal(R.REJECTION_REASON_DEADLINE_PASSED, detail)
    return None


def _handled(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    try:
        return HANDLERS[command.WhichOneof("action") or ""](turn, command)
    except LifecycleConflict as conflict:
        return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, str(conflict))


def _adjust_optimizer(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    change = command.optimizer
    problems = [
        f"{name} is {getattr(change, name):g}, it must lie in {low:g}..{high:g}"
        for name, low, high in OPTIMIZER_RANGES
        if change.HasField(name) and not low <= getattr(change, name) <= high
    ]
    if problems or not change.ListFields():
        return Refusal(R.REJECTION_REASON_MALFORMED_PAYLOAD, "; ".join(problems) or "the adjustment changes nothing")
    turn.direct(DirectiveKind.DIRECTIVE_KIND_ADJUST_OPTIMIZER, command.command_id, optimizer=change)
    return None


def _pause(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    if command.pause.seed_id:
        return pause_seed(turn, command)
    pause_growth(turn, command.command_id, command.pause.rationale)
    return None


def pause_growth(turn: Turn, command_id: str, rationale: str) -> None:
    """Seeds alive go on; no new one is germinated."""
    turn.state.growth.paused = True
    turn.direct(DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH, command_id, rationale=rationale)
    turn.tell(GROWTH_PAUSED, rationale, command_id=command_id)


def _resume(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """A seed goes on; or growth does, and an emergency is over with it."""
    if command.resume.seed_id:
        return resume_seed(turn, command)
    if not turn.state.growth.paused:
        return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, "growth is not paused")
    turn.state.growth.paused = False
    turn.state.growth.ClearField("emergency")
    turn.direct(DirectiveKind.DIRECTIVE_KIND_RESUME_GROWTH, command.command_id, rationale=command.resume.rationale)
    turn.tell(GROWTH_RESUMED, command.resume.rationale, command_id=command.command_id)
    return None


def _roll_back(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    order = command.rollback
    if order.HasField("to_step") and order.to_step > turn.step:
        detail = f"to_step is {order.to_step}, the run is at step {turn.step}; name an earlier step"
        return Refusal(R.REJECTION_REASON_MALFORMED_PAYLOAD, detail)
    to_step = order.to_step if order.HasField("to_step") else None
    turn.direct(DirectiveKind.DIRECTIVE_KIND_ROLLBACK, command.command_id, rationale=order.rationale, to_step=to_step)
    turn.tell(ROLLBACK_ORDERED, order.rationale, command_id=command.command_id)
    return None


def _raise_emergency(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """L1 and L2 are recorded, L3 ends the seeds in flight and growth with them, L4 stops the run after a checkpoint.

    A level falls by Weatherlight's word alone. A halt changes nothing else: the run goes on after it as if there had
    been none.
    """
    order, growth = command.emergency, turn.state.growth
    if order.level >= EmergencyLevel.EMERGENCY_LEVEL_L4_HALT:
        turn.direct(DirectiveKind.DIRECTIVE_KIND_HALT, command.command_id, rationale=order.rationale)
    else:
        is_told = command.issued_by == WEATHERLIGHT
        growth.emergency = order.level if is_told else max(growth.emergency, order.level)
    if order.level == EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE:
        moves.cull_all(turn, command.command_id, f"emergency: {order.rationale}")
    level = EmergencyLevel.Name(order.level)
    turn.tell(EMERGENCY_ORDERED, order.rationale, level=level, command_id=command.command_id)
    return None


def _force_breaker(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Breakers belong to the service, not to a run: the caller forces it once the command is stored."""
    known = turn.breakers
    if command.circuit_breaker.breaker in known:
        return None
    detail = f"no breaker {command.circuit_breaker.breaker!r}; this service has {', '.join(known)}"
    return Refusal(R.REJECTION_REASON_UNSUPPORTED_ACTION, detail)


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "seed": seed_operation,
        "optimizer": _adjust_optimizer,
        BREAKER_ACTION: _force_breaker,
        "pause": _pause,
        "resume": _resume,
        "rollback": _roll_back,
        "emergency": _raise_emergency,
        "prune": prune,
    }
)
