"""A stack's course under its judge: its looks fixed at the graft, its evaluations ordered at once, its looks taken.

The plan is a function of what stands in the record, so it is made again wherever it is needed and is always the same.
What the gain is at equal cost, and a forecast to the end, stand beside each verdict and never decide.
"""

from __future__ import annotations

import math
from dataclasses import replace

from esper.core.errors import ConfigError
from esper.kasmina.control.judge.stack_outlook import (
    ArmCosts,
    forecast,
    gain_at_equal_flops,
    of_all_parts,
    recovery_steps,
)
from esper.kasmina.control.judge.stack_plan import PlannedLook, StackPlan, StackSettings, plan_looks
from esper.kasmina.control.judge.stack_test import Evaluation, StackLook, Verdict, take_stack_look
from esper.kasmina.control.stages import gates, lifecycle
from esper.kasmina.control.stages.gates import EXTEND, FAIL, G4, PASS
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import DirectiveKind, SeedRecord, StackEvaluation, StackTest

VERDICTS = {Verdict.KEEP: PASS, Verdict.CONTINUE: EXTEND, Verdict.CULL: FAIL}


def settings_of(turn: Turn) -> StackSettings:
    """The run's settings; what it doesn't say is as measured."""
    told = turn.life.stack
    return StackSettings(
        margin=told.margin,
        error_rate=told.error_rate,
        min_evaluations=told.evaluations,
        min_samples=turn.life.min_samples,
        max_clipped_share=told.max_clipped_share,
        window_fraction=told.window_fraction,
        window_recoveries=told.window_recoveries,
    )


def expected_recovery(turn: Turn) -> int:
    """Steps until a stack overtakes its twin: the run's setting, or more where a kept stack of the run took longer.

    A window can't measure a recovery that was over before its first evaluation, so none shortens the setting. No more
    than the longest window.
    """
    seen = [
        recovery_steps(evaluations_of(record), record.grafted_step) or 0
        for record in turn.state.seeds
        if record.state.stage == lifecycle.FOSSILIZED and record.evaluations
    ]
    longest = math.floor(turn.life.stack.window_fraction * turn.spec.total_steps)
    return max(1, min(longest, max([turn.life.stack.recovery_steps, *seen])))


def plan_problem(turn: Turn, graft_step: int) -> str | None:
    """Why a stack that is grafted then couldn't be judged, or None."""
    if not turn.life.HasField("stack"):
        return "the run was opened without settings for judging stacks"
    if not turn.has_twins:
        return "a stack is judged against its twin; this run judges muted seeds"
    try:
        check_plan(turn, graft_step)
    except ConfigError as error:
        return str(error)
    return None


def check_plan(turn: Turn, graft_step: int) -> None:
    """Raise ConfigError, with what to change, where a stack that is grafted then couldn't be judged."""
    _plan(turn, graft_step, expected_recovery(turn), turn.state.growth.looks_since_fossil + 1)


def order_evaluations(turn: Turn, record: SeedRecord, command_id: str) -> None:
    """Fix every look and order its evaluations: an order that waits for a verdict would come too late for its step."""
    record.look = turn.state.growth.looks_since_fossil + 1
    record.recovery_steps = expected_recovery(turn)
    plan = _plan_of(turn, record)
    record.window_end_step = plan.graft_step + plan.window_steps
    parts = max(1, turn.life.stack.parts)
    for look in plan.looks:
        for number, step in enumerate(look.evaluations):
            part = {"part": number % parts, "parts": parts} if parts > 1 else {}
            turn.direct(DirectiveKind.DIRECTIVE_KIND_JUDGE, command_id, record, at_step=step, look=record.look, **part)


def take_evaluations(record: SeedRecord, evaluations: list[StackEvaluation]) -> None:
    """Keep what is new, in order of its steps."""
    last = record.evaluations[-1].step if record.evaluations else -1
    record.evaluations.extend(evaluation for evaluation in evaluations if evaluation.step > last)


def take_look(turn: Turn, record: SeedRecord) -> None:
    """Decide the next planned look once its last evaluation is there."""
    plan = _plan_of(turn, record)
    taken = sum(evidence.gate == G4 for evidence in record.gates)
    if taken == len(plan.looks) or not record.evaluations:
        return
    planned, evaluations = plan.looks[taken], evaluations_of(record)
    if evaluations[-1].step < planned.step:
        return
    result = take_stack_look(planned, evaluations, settings_of(turn))
    is_early, is_extension = planned.step < record.window_end_step, planned.step > record.window_end_step
    test = _test(turn, record, planned, result, window=record.look + is_extension)
    verdict = VERDICTS[result.verdict]
    turn.note(record, gates.g4_stack(record, planned.step, test, verdict, _in_words(test, result, early=is_early)))
    record.extended = is_extension
    if math.isfinite(result.gain):
        record.state.gain, record.state.gain_standard_error = result.gain, result.standard_error
    # An early look and the end of its window share one window's error.
    if planned.step >= record.window_end_step or verdict == FAIL:
        turn.state.growth.looks_since_fossil += 1
    if verdict != EXTEND:
        turn.state.growth.judged += 1


def evaluations_of(record: SeedRecord) -> list[Evaluation]:
    """The record's evaluations as the test reads them."""
    return [as_evidence(told) for told in record.evaluations]


def as_evidence(told: StackEvaluation) -> Evaluation:
    """One evaluation of an executor as the test reads it."""
    return Evaluation(
        step=told.step,
        gain=told.twin.mean,
        variance=told.twin.variance,
        samples=told.twin.samples,
        clipped_share=told.clipped_share,
        twin_score=told.mean_twin_score,
        error=told.twin.standard_error if told.twin.HasField("documents") else None,
        part=told.part if told.HasField("part") else None,
    )


def _plan_of(turn: Turn, record: SeedRecord) -> StackPlan:
    return _plan(turn, record.grafted_step, record.recovery_steps, record.look)


def _plan(turn: Turn, graft_step: int, recovery: int, look: int) -> StackPlan:
    """The plan whose evaluations can all be ordered in time: with an early look, or else without."""
    settings, reaction = settings_of(turn), turn.life.reaction_steps
    first_step = graft_step + 2 * reaction
    for each in (settings, replace(settings, early_error_share=0.0)):
        plan = plan_looks(
            graft_step=graft_step,
            recovery_steps=recovery,
            total_steps=turn.spec.total_steps,
            end_step=turn.life.growth_end_step - 2 * reaction,
            look=look,
            settings=each,
        )
        if plan.looks[0].evaluations[0] > first_step:
            return plan
    raise ConfigError(
        "evaluate_every_steps",
        reaction,
        f"evaluations begin {plan.looks[0].evaluations[0] - graft_step} steps after the graft, before they can be "
        f"ordered, {2 * reaction} after it; hand packets over more often, or give a longer window",
    )


def _test(turn: Turn, record: SeedRecord, planned: PlannedLook, result: StackLook, *, window: int) -> StackTest:
    test = StackTest(
        look=window,
        evaluations=len(planned.evaluations),
        graft_step=record.grafted_step,
        margin=turn.life.stack.margin,
        z_threshold=result.z_threshold,
    )
    for name in ("gain", "document_error", "wander_error", "standard_error", "z", "clipped_share"):
        if math.isfinite(value := getattr(result, name)):
            setattr(test, name, value)
    if test.HasField("gain"):
        _add_outlook(turn, record, test)
    return test


def _add_outlook(turn: Turn, record: SeedRecord, test: StackTest) -> None:
    looks, costs = [look.evaluations for look in _plan_of(turn, record).looks], _costs(turn, record)
    evaluations = of_all_parts(evaluations_of(record), looks)
    at_equal_flops = gain_at_equal_flops(evaluations, record.grafted_step, costs)
    if at_equal_flops is not None:
        test.gain_at_equal_flops = at_equal_flops
    ahead = forecast(evaluations, graft_step=record.grafted_step, end_step=turn.life.growth_end_step, costs=costs)
    if ahead is not None:
        test.forecast_grown, test.forecast_twin = ahead.grown, ahead.twin
        test.forecast_twin_at_equal_flops = ahead.twin_at_equal_flops


def _costs(turn: Turn, record: SeedRecord) -> ArmCosts:
    """By forward work: backward takes twice as much in both arms."""
    kept = sum(other.state.forward_macs for other in turn.state.seeds if other.state.stage == lifecycle.FOSSILIZED)
    twin = turn.spec.manifest.forward_macs + kept
    return ArmCosts(twin=float(twin), grown=float(twin + record.state.forward_macs))


def _in_words(test: StackTest, result: StackLook, *, early: bool) -> str:
    said = f"look {test.look}{', early' if early else ''}: {result.reason}"
    if test.HasField("gain_at_equal_flops"):
        said += f"; at equal FLOPs {test.gain_at_equal_flops:+.4f}"
    return said
