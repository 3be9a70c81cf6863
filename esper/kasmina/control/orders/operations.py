"""Commands on one seed: germinate, fossilise, cull, change the blend, advance by override; and pruning.

Each handler answers with a refusal, or changes the turn and answers nothing. A stage that doesn't allow it raises
LifecycleConflict, which dispatch records as the refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from esper.core.blends import blend_problem
from esper.core.enums import short_name
from esper.kasmina.control.orders.germination import germinate, tell_blend
from esper.kasmina.control.stages import moves
from esper.kasmina.control.stages.lifecycle import (
    BLENDING,
    CULLABLE,
    CULLED,
    FOSSILIZED,
    NEXT,
    PROBATIONARY,
    SHADOWING,
    STACK_NEXT,
    TERMINATED,
    require_stage,
    stage_name,
)
from esper.kasmina.control.stages.pause import still_paused
from esper.kasmina.control.stages.turn import Refusal, Turn, unknown_seed
from esper.kasmina.metrics import SEED_OPERATION
from esper.leyline import (
    AdaptationCommand,
    DirectiveKind,
    GateVerdict,
    RejectionReason,
    SeedGate,
    SeedOperationKind,
    SeedRecord,
)

R = RejectionReason
Handler = Callable[[Turn, AdaptationCommand], Refusal | None]
G4 = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT


def seed_operation(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Do what the operation names."""
    operation = command.seed
    refusal = HANDLERS[operation.operation](turn, command)
    if refusal is None:
        name = short_name(SeedOperationKind, operation.operation)
        turn.tell(
            SEED_OPERATION,
            f"{name} {operation.seed_id}",
            seed_id=operation.seed_id,
            operation=name,
            command_id=command.command_id,
            issued_by=command.issued_by,
        )
    return refusal


def prune(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Take a permanent seed out again, while it is a module of its own."""
    record = turn.find(command.prune.seed_id)
    if record is None:
        return unknown_seed(command.prune.seed_id)
    require_stage(record, {FOSSILIZED}, "PRUNE")
    if record.state.is_folded or any(d.kind == DirectiveKind.DIRECTIVE_KIND_FOLD for d in record.pending):
        detail = f"seed {record.state.seed_id} is folded into the host's layers; only a rollback undoes a fold"
        return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, detail)
    moves.cull(turn, record, command.command_id, f"pruned: {command.prune.rationale}")
    return None


def _fossilize(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    record = turn.find(command.seed.seed_id)
    if record is None:
        return unknown_seed(command.seed.seed_id)
    require_stage(record, {PROBATIONARY}, "FOSSILIZE")
    if record.state.is_paused:
        return still_paused(record)
    if record.state.gate != G4 or record.state.verdict != GateVerdict.GATE_VERDICT_PASS:
        return Refusal(R.REJECTION_REASON_GATE_REFUSED, f"G4 has not passed seed {record.state.seed_id}")
    moves.fossilize(turn, record, command.command_id, "kept: it passed the judgement", G4)
    return None


def _cull(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    record = turn.find(command.seed.seed_id)
    if record is None:
        return unknown_seed(command.seed.seed_id)
    require_stage(record, CULLABLE, "CULL")
    moves.cull(turn, record, command.command_id, _cull_reason(record), record.state.gate or None)
    return None


def _cull_reason(record: SeedRecord) -> str:
    if record.state.verdict != GateVerdict.GATE_VERDICT_FAIL:
        return "culled by command"
    return f"culled: {record.gates[-1].detail}"


def _change_blend(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Only while blending: later it would change what is judged."""
    record = turn.find(command.seed.seed_id)
    if record is None:
        return unknown_seed(command.seed.seed_id)
    require_stage(record, {BLENDING}, "CHANGE_BLEND")
    slot = turn.slot(record.state.slot_id)
    channels = turn.channels(slot) if slot else 0
    if problem := blend_problem(command.seed.blend, channels, turn.spec.manifest, turn.life):
        return Refusal(R.REJECTION_REASON_INVALID_BLEND, problem)
    record.germination.blend.CopyFrom(command.seed.blend)
    # What was seen under the old blend says nothing of the new one.
    record.ClearField("observation")
    turn.direct(DirectiveKind.DIRECTIVE_KIND_SET_BLEND, command.command_id, record, blend=command.seed.blend)
    tell_blend(turn, command)
    return None


def _advance_to(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """An operator's override: the next stage without its gate, but never outside the lifecycle."""
    if command.issued_by == "tamiyo":
        detail = "ADVANCE_TO is an operator's override; a policy waits for the gates"
        return Refusal(R.REJECTION_REASON_UNSUPPORTED_ACTION, detail)
    record = turn.find(command.seed.seed_id)
    if record is None:
        return unknown_seed(command.seed.seed_id)
    target = command.seed.target_stage
    if record.state.is_paused and target != CULLED:
        return still_paused(record)
    if turn.traits(record).is_stack and target in (SHADOWING, PROBATIONARY):
        detail = "a stack's looks are fixed by its graft; it can be moved to FOSSILIZED or CULLED alone"
        return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, detail)
    table = STACK_NEXT if turn.traits(record).is_stack else NEXT
    if target not in table[record.state.stage] or target not in moves.ENTRIES or target == TERMINATED:
        here = stage_name(record.state.stage)
        detail = f"{here} to {stage_name(target)} is no move that a command can make; see the lifecycle"
        return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, detail)
    if record.state.stage == FOSSILIZED:
        return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, "a permanent seed is taken out by PRUNE")
    moves.ENTRIES[target](turn, record, command.command_id, f"override by {command.issued_by}")
    return None


HANDLERS: Mapping[SeedOperationKind, Handler] = MappingProxyType(
    {
        SeedOperationKind.SEED_OPERATION_KIND_GERMINATE: germinate,
        SeedOperationKind.SEED_OPERATION_KIND_FOSSILIZE: _fossilize,
        SeedOperationKind.SEED_OPERATION_KIND_CULL: _cull,
        SeedOperationKind.SEED_OPERATION_KIND_CHANGE_BLEND: _change_blend,
        SeedOperationKind.SEED_OPERATION_KIND_ADVANCE_TO: _advance_to,
    }
)
