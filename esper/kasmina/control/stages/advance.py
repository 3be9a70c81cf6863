"""Advance: observations and reports in; stages move by their gates, and by time.

Decisions depend on the evidence and the training step alone, never on when a call arrives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from esper.core.dependency_guard import require
from esper.kasmina.control.stages import gates, lifecycle, moves, stack_course
from esper.kasmina.control.stages.gates import EXTEND, FAIL, G1, G2, G3, PASS, WAIT
from esper.kasmina.control.stages.lifecycle import BLENDING, EMBARGOED, PROBATIONARY, SHADOWING, TRAINING
from esper.kasmina.control.stages.reports import take_report
from esper.kasmina.control.stages.turn import Turn
from esper.kasmina.metrics import GATE_WITHOUT_LOGITS
from esper.leyline import (
    AdvanceRequest,
    DirectiveKind,
    HealthStatus,
    SeedObservation,
    SeedRecord,
    SeedStage,
    SlotSignal,
)

Consultation = Callable[[Turn, SeedRecord, SeedObservation], None]


def advance(turn: Turn, request: AdvanceRequest) -> None:
    """Take in what was seen and done, consult the gates, let time pass."""
    for signal in request.slots:
        _take_signal(turn, signal)
    if request.HasField("training_macs"):
        turn.state.training_macs, turn.state.training_macs_step = request.training_macs, request.step
    for report in request.reports:
        take_report(turn, report)
    for observation in request.observations:
        consult(turn, take_observation(turn, observation))
    pass_time(turn)
    turn.state.step = max(turn.state.step, turn.step)


def _take_signal(turn: Turn, signal: SlotSignal) -> None:
    known = turn.signal(signal.slot_id)
    if known is not None:
        known.CopyFrom(signal)
    elif turn.slot(signal.slot_id) is not None:
        turn.state.slots.append(signal)


def take_observation(turn: Turn, observation: SeedObservation) -> SeedRecord:
    """Store an observation; leaks add up and a gradient once not finite stays so for the stage."""
    remedy = "the trainer knows a seed that this run doesn't have; resume the run from its checkpoint"
    record = require(turn.find(observation.seed_id), "kasmina", "seed", observation.seed_id, remedy)
    stack_course.take_evaluations(record, list(observation.evaluations))
    merged = SeedObservation()
    merged.CopyFrom(observation)
    merged.ClearField("evaluations")
    if record.HasField("observation"):
        merged.isolation_violations += record.observation.isolation_violations
        if record.observation.HasField("gradients_finite") and not record.observation.gradients_finite:
            merged.gradients_finite = False
    record.observation.CopyFrom(merged)
    _show(turn, record)
    return record


def _show(turn: Turn, record: SeedRecord) -> None:
    """What the world is told of the observation."""
    observation, state = record.observation, record.state
    state.alpha = observation.alpha
    for name in ("gradient_norm", "rms_ratio"):
        if observation.HasField(name):
            setattr(state, name, getattr(observation, name))
    if observation.HasField("probe"):
        state.muted_gain, state.muted_gain_standard_error = gates.gain_of(observation.probe.muted)
        if observation.probe.HasField("interference"):
            state.interference = observation.probe.interference
    if observation.HasField("judgement"):
        state.muted_gain, state.muted_gain_standard_error = gates.gain_of(observation.judgement.muted)
    if observation.HasField("judgement") and observation.judgement.HasField("twin"):
        state.gain, state.gain_standard_error = gates.gain_of(observation.judgement.twin)
    if observation.blend.gateless_samples:
        turn.tell(
            GATE_WITHOUT_LOGITS,
            f"{observation.blend.gateless_samples} samples of the last batch have no confidence",
            seed_id=state.seed_id,
            samples=observation.blend.gateless_samples,
        )
    if observation.isolation_violations:
        state.health = HealthStatus.HEALTH_STATUS_UNHEALTHY


def consult(turn: Turn, record: SeedRecord) -> None:
    """Ask the gate of the seed's stage, and of the next one as long as it moves; not while the seed is paused."""
    if record.state.is_paused:
        return
    stage = None
    while stage != record.state.stage and record.HasField("observation"):
        stage = record.state.stage
        if stage in CONSULTATIONS and not _awaits_command(record):
            CONSULTATIONS[stage](turn, record, record.observation)


def _awaits_command(record: SeedRecord) -> bool:
    """A failed seed waits for its cull, a judged one for its keeping."""
    verdict = record.state.verdict
    return verdict == FAIL or (verdict == PASS and record.state.stage == PROBATIONARY)


def _incubated(turn: Turn, record: SeedRecord, observation: SeedObservation) -> None:
    if not observation.HasField("incubation_score"):
        return
    evidence = gates.g1_gradient_health(record, observation, turn.traits(record))
    turn.note(record, evidence)
    if evidence.verdict == PASS:
        moves.blend(turn, record, record.state.command_id, "incubated", G1)


def _blended(turn: Turn, record: SeedRecord, observation: SeedObservation) -> None:
    """At the end of the schedule G1, for seeds that were not incubated, and G2; a broken loss fails at once."""
    settling = any(d.kind == DirectiveKind.DIRECTIVE_KIND_SET_BLEND for d in record.pending)
    if not record.HasField("grafted_step") or settling:
        return
    if not observation.is_schedule_done and math.isfinite(observation.smoothed_loss):
        return
    stability = gates.g2_stability(record, observation, turn.life)
    if stability.verdict == WAIT:
        if record.state.verdict != WAIT:  # told once, however long it lasts
            turn.note(record, stability)
        return
    traits = turn.traits(record)
    if not traits.incubates and stability.verdict == PASS:
        health = gates.g1_gradient_health(record, observation, traits)
        turn.note(record, health)
        if health.verdict == FAIL:
            return
    turn.note(record, stability)
    if stability.verdict == PASS:
        moves.shadow(turn, record, record.state.command_id, "blended and stable", G2)


def _probed(turn: Turn, record: SeedRecord, observation: SeedObservation) -> None:
    if not observation.HasField("probe"):
        return
    evidence = gates.g3_interface(record, observation, turn.life)
    turn.note(record, evidence)
    if evidence.verdict == PASS:
        moves.put_on_probation(turn, record, record.state.command_id, "its interface fits", G3)


def _judged(turn: Turn, record: SeedRecord, observation: SeedObservation) -> None:
    """One look of the sequential test; an undecided first look gets one more window, if there is time for it."""
    if turn.traits(record).is_stack:
        stack_course.take_look(turn, record)
        return
    if not observation.HasField("judgement") or observation.judgement.look < record.look:
        return
    growth, life = turn.state.growth, turn.life
    next_end = record.window_end_step + life.window_steps
    may_extend = not record.extended and next_end + 2 * life.reaction_steps <= life.growth_end_step
    growth.looks_since_fossil += 1
    evidence = gates.g4_system_impact(record, observation, life, may_extend=may_extend)
    turn.note(record, evidence)
    if evidence.verdict != EXTEND:
        growth.judged += 1
        return
    record.extended = True
    record.window_end_step = next_end
    moves.order_judgement(turn, record, record.state.command_id)


CONSULTATIONS: Mapping[SeedStage, Consultation] = MappingProxyType(
    {TRAINING: _incubated, BLENDING: _blended, SHADOWING: _probed, PROBATIONARY: _judged}
)


def pass_time(turn: Turn) -> None:
    """Age the living, end embargoes."""
    for record in turn.state.seeds:
        if record.state.stage in lifecycle.ALIVE:
            record.state.age_steps = max(0, turn.step - record.germinated_step)
        if record.state.stage == EMBARGOED and all(d.at_step <= turn.step for d in record.pending):
            moves.reset(turn, record, record.state.command_id, "its embargo is over")
    moves.lift_embargoes(turn)


def terminate(turn: Turn, reason: str) -> None:
    """End of the run: what is permanent or gone stays as it is, everything else ends here."""
    for record in turn.state.seeds:
        if record.state.stage in (lifecycle.FOSSILIZED, lifecycle.DORMANT, lifecycle.TERMINATED):
            continue
        turn.move(record, lifecycle.TERMINATED, record.state.command_id, f"the run ended: {reason}")
        del record.pending[:]
