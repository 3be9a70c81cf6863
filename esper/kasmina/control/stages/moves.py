"""What entering a stage brings: bookkeeping of the run's counters, and the directives that make it true.

Commands, gates and operators' overrides all move seeds through here, so that a stage means the same however it
was reached.
"""

from __future__ import annotations

from esper.kasmina.control.stages import lifecycle, stack_course
from esper.kasmina.control.stages.lifecycle import (
    BLENDING,
    CULLED,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    PROBATIONARY,
    RESETTING,
    SHADOWING,
    TRAINING,
)
from esper.kasmina.control.stages.turn import Turn
from esper.kasmina.metrics import GROWTH_ENDED
from esper.leyline import BlendMode, DirectiveKind, Embargo, GateVerdict, SeedGate, SeedRecord

G4 = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT


def attach(turn: Turn, record: SeedRecord, command_id: str) -> None:
    """Put the seed into the host's forward pass."""
    turn.direct(
        DirectiveKind.DIRECTIVE_KIND_ATTACH,
        command_id,
        record,
        slot_id=record.state.slot_id,
        blend=record.germination.blend,
        isolate=turn.life.isolate,
    )


def train(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """Incubation has begun; its directive was given with the germination."""
    turn.move(record, TRAINING, command_id, reason, gate)


def blend(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """After incubation the seed is attached now; without it, that was done with the germination."""
    comes_from_training = record.state.stage == TRAINING
    turn.move(record, BLENDING, command_id, reason, gate)
    if comes_from_training:
        if turn.has_twins:
            turn.direct(DirectiveKind.DIRECTIVE_KIND_SNAPSHOT_TWIN, command_id, record)
        attach(turn, record, command_id)


def shadow(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """The schedule is over: probe the interface. A stack was proven with its graft."""
    turn.move(record, SHADOWING, command_id, reason, gate)
    if not turn.traits(record).is_stack:
        turn.direct(DirectiveKind.DIRECTIVE_KIND_PROBE, command_id, record)


def put_on_probation(
    turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None
) -> None:
    """Judge at the end of the window that began with the graft, a stack at the looks that are fixed now."""
    turn.move(record, PROBATIONARY, command_id, reason, gate)
    if turn.traits(record).is_stack:
        stack_course.order_evaluations(turn, record, command_id)
        return
    grafted_step = record.grafted_step if record.HasField("grafted_step") else turn.step
    record.window_end_step = max(grafted_step + turn.life.window_steps, turn.step)
    order_judgement(turn, record, command_id)


def order_judgement(turn: Turn, record: SeedRecord, command_id: str) -> None:
    """One look at the end of the present window; looks are counted since the last kept seed."""
    record.look = turn.state.growth.looks_since_fossil + 1
    turn.direct(
        DirectiveKind.DIRECTIVE_KIND_JUDGE,
        command_id,
        record,
        at_step=record.window_end_step,
        look=record.look,
        duration_steps=turn.life.window_steps,
    )


def fossilize(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """Permanent: folded where blueprint, slot and blend allow it; the looks start again."""
    turn.move(record, FOSSILIZED, command_id, reason, gate)
    growth = turn.state.growth
    growth.kept += 1
    growth.looks_since_fossil = 0
    growth.culls_in_row = 0
    growth.added_parameters += record.state.parameters
    record.state.is_folded = turn.traits(record).is_stack
    if record.state.is_folded:
        # Part of the host already; the evaluations that its verdict didn't need are not made.
        del record.pending[:]
    if can_fold(turn, record):
        turn.direct(DirectiveKind.DIRECTIVE_KIND_FOLD, command_id, record)
    # Also where there is no twin: it is what makes a seed that stays a module permanent.
    turn.direct(DirectiveKind.DIRECTIVE_KIND_DROP_TWIN, command_id, record)


def can_fold(turn: Turn, record: SeedRecord) -> bool:
    """Only a plain sum at alpha = 1 exactly can be merged into the host's layers."""
    slot, settings = turn.slot(record.state.slot_id), record.germination.blend
    is_plain = settings.mode == BlendMode.BLEND_MODE_RESIDUAL and settings.alpha_target == 1.0
    return (
        is_plain and turn.catalog.get(record.state.blueprint_id).is_foldable and slot is not None and slot.is_foldable
    )


def cull(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """Out of the host: by the twin where there is one, else by fading. Failures of gates in a row end growth."""
    from_stage = record.state.stage
    has_failed = record.state.verdict == GateVerdict.GATE_VERDICT_FAIL
    was_kept = from_stage == FOSSILIZED
    del record.pending[:]
    turn.move(record, CULLED, command_id, reason, gate)
    record.state.ClearField("is_paused")
    record.ClearField("paused_step")
    if has_failed:
        _count_cull(turn)
    if was_kept:
        turn.state.growth.kept -= 1
        turn.state.growth.added_parameters -= record.state.parameters
    if turn.has_twins and not was_kept and _was_snapshot(turn, record, from_stage):
        turn.direct(DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN, command_id, record)
    else:
        remove(turn, record, command_id)


def cull_all(turn: Turn, command_id: str, reason: str) -> int:
    """Cull every seed in flight; gives their number. What is permanent stays."""
    living = [record for record in turn.state.seeds if record.state.stage in lifecycle.CULLABLE]
    for record in living:
        cull(turn, record, command_id, reason)
    return len(living)


def remove(turn: Turn, record: SeedRecord, command_id: str) -> None:
    """Take the seed out without a twin; one that was attached fades first."""
    if not record.HasField("grafted_step") or turn.traits(record).is_stack:
        turn.direct(DirectiveKind.DIRECTIVE_KIND_REMOVE, command_id, record)
        return
    turn.direct(DirectiveKind.DIRECTIVE_KIND_FADE, command_id, record, duration_steps=turn.life.fade_steps)


def embargo(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """The slot stays closed for its embargo and the check that ends it, whenever Advance is next called."""
    turn.move(record, EMBARGOED, command_id, reason, gate)
    record.state.alpha = 0.0
    check_step = turn.step + turn.life.embargo_steps
    until_step = check_step + 2 * turn.life.reaction_steps
    turn.state.growth.embargoes.append(Embargo(slot_id=record.state.slot_id, until_step=until_step))
    turn.direct(DirectiveKind.DIRECTIVE_KIND_CHECK_RESET, command_id, record, at_step=check_step)


def reset(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """The embargo is over; the check that was ordered with it decides."""
    turn.move(record, RESETTING, command_id, reason, gate)


def rest(turn: Turn, record: SeedRecord, command_id: str, reason: str, gate: SeedGate | None = None) -> None:
    """Nothing is left of the seed."""
    turn.move(record, DORMANT, command_id, reason, gate)
    del record.pending[:]


def lift_embargoes(turn: Turn) -> None:
    """Open the slots whose time has come and that are clear."""
    closed = {r.state.slot_id for r in turn.state.seeds if r.state.stage in lifecycle.CLOSING}
    kept = [e for e in turn.state.growth.embargoes if turn.step < e.until_step or e.slot_id in closed]
    del turn.state.growth.embargoes[:]
    turn.state.growth.embargoes.extend(kept)


def _was_snapshot(turn: Turn, record: SeedRecord, from_stage: int) -> bool:
    """Whether a twin was ordered: with the germination, or for an incubated seed when it was attached."""
    return not turn.traits(record).incubates or from_stage not in (GERMINATED, TRAINING)


def _count_cull(turn: Turn) -> None:
    growth = turn.state.growth
    growth.culls_in_row += 1
    if growth.culls_in_row >= turn.life.max_culls_in_row and not growth.ended:
        growth.ended = True
        turn.tell(GROWTH_ENDED, f"{growth.culls_in_row} culls in a row", culls=growth.culls_in_row)


# How each stage is entered; GERMINATED is germination's own, TERMINATED the end of a run's.
ENTRIES = {
    TRAINING: train,
    BLENDING: blend,
    SHADOWING: shadow,
    PROBATIONARY: put_on_probation,
    FOSSILIZED: fossilize,
    CULLED: cull,
    EMBARGOED: embargo,
    RESETTING: reset,
    DORMANT: rest,
}
