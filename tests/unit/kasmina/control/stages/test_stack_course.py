"""Lives of stacks: grown at once, judged at looks fixed at the graft, kept as part of the host or undone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from esper.kasmina.control.orders import dispatch
from esper.kasmina.control.stages.stack_course import expected_recovery, take_evaluations
from esper.leyline import (
    Budget,
    DirectiveReport,
    GateVerdict,
    JudgeMode,
    KasminaRunSpec,
    ParameterValue,
    SeedGate,
    SeedRecord,
    SeedStage,
    SlotSignal,
)
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import (
    STACK_SLOT,
    K,
    double,
    kinds,
    on_seed,
    refusal_of,
    rising_blend,
    stack_judging,
    stack_run,
    turn,
)
from tests.unit.kasmina.control.stages.test_advance import Course


def course(run: KasminaRunSpec | None = None, **executor: Any) -> Course:
    return Course(run=run or stack_run(), executor=FakeExecutor(**executor))


def looks(record: SeedRecord) -> list[Any]:
    return [evidence for evidence in record.gates if evidence.gate == SeedGate.SEED_GATE_G4_SYSTEM_IMPACT]


def grafted(made: Course, seed_id: str = "s1") -> SeedRecord:
    made.order(double(seed_id, step=made.step))
    return made.until("PROBATIONARY")


def refusal(run: KasminaRunSpec, step: int = 100, **fields: Any) -> tuple[str, str]:
    outcome = dispatch.apply(turn(step=step, run=run), double(step=step, **fields))
    assert not outcome.accepted
    return refusal_of(outcome), outcome.detail


def test_a_stack_is_copied_attached_and_judged_without_blend_probe_or_incubation() -> None:
    made = course()
    ordered = made.order(double(step=100))
    assert kinds(ordered.directives) == ["SNAPSHOT_TWIN", "BUILD", "ATTACH"]
    record = made.until("PROBATIONARY")
    assert made.path == ["GERMINATED", "SHADOWING", "PROBATIONARY"]
    assert set(kinds(list(record.pending))) == {"JUDGE"}
    assert not any(gate.verdict == GateVerdict.GATE_VERDICT_FAIL for gate in record.gates)


def test_a_jump_of_the_logits_is_measured_and_culls_nothing() -> None:
    made = course(faults={K.DIRECTIVE_KIND_ATTACH: {"max_logit_delta": 1.3}})
    record = grafted(made)
    assert record.gates[0].measured == 1.3
    assert not record.gates[0].HasField("threshold")


def test_an_infinite_jump_fails_the_sanity_gate() -> None:
    made = course(faults={K.DIRECTIVE_KIND_ATTACH: {"max_logit_delta": float("inf")}})
    made.order(double(step=100))
    assert "not finite" in made.until("GERMINATED", "FAIL").gates[-1].detail


def test_every_evaluation_is_ordered_when_the_stack_is_grafted_and_none_later() -> None:
    made = course()
    record = grafted(made)
    steps = [directive.at_step for directive in record.pending]
    assert len(steps) == 24  # an early look, the window's end, and one more window
    assert steps == sorted(set(steps))
    assert record.window_end_step == record.grafted_step + 180
    assert steps[-1] == record.grafted_step + 360
    before = made.state.directives_issued
    made.until("PROBATIONARY", "PASS")
    assert made.state.directives_issued == before


def in_parts(parts: int) -> KasminaRunSpec:
    return stack_run(stack=stack_judging(parts=parts))


def test_each_look_scores_the_judging_set_once_a_part_at_each_of_its_evaluations() -> None:
    record = grafted(course(in_parts(8)))
    assert [(each.part, each.parts) for each in record.pending] == [(part, 8) for part in range(8)] * 3
    assert not any(each.HasField("part") for each in grafted(course(in_parts(1))).pending)


def test_losses_of_parts_are_not_set_beside_each_other_step_by_step() -> None:
    """A forecast goes through whole looks, so that there is none at the first."""
    made = course(in_parts(8), gain=0.05)
    grafted(made)
    (look,) = looks(made.until("PROBATIONARY", "PASS"))
    assert look.stack.z > look.stack.z_threshold
    assert not look.stack.HasField("forecast_twin")
    late = course(in_parts(8), gain=0.0)
    grafted(late)
    *_, last = looks(late.until("PROBATIONARY", "FAIL"))
    assert last.stack.HasField("forecast_twin")


def test_a_clear_gain_is_kept_at_the_early_look_and_the_rest_is_not_evaluated() -> None:
    made = course(gain=0.05)
    grafted(made)
    record = made.until("PROBATIONARY", "PASS")
    (look,) = looks(record)
    assert look.step == record.grafted_step + 120
    assert look.stack.gain == pytest.approx(0.05, abs=1e-3)
    assert look.stack.z > look.stack.z_threshold
    assert look.stack.HasField("forecast_twin_at_equal_flops")
    assert 0.0 < look.stack.wander_error < look.stack.standard_error
    assert record.state.gain == look.stack.gain
    kept = made.order(on_seed("FOSSILIZE", step=made.step))
    assert kinds(kept.directives) == ["DROP_TWIN"]
    record = made.state.seeds[-1]
    assert (record.state.is_folded, made.state.growth.kept, made.state.growth.looks_since_fossil) == (True, 1, 0)
    assert made.state.growth.added_parameters == record.state.parameters


def test_no_gain_is_looked_at_three_times_and_culled_by_the_twin() -> None:
    made = course(gain=0.001)
    grafted(made)
    record = made.until("PROBATIONARY", "FAIL")
    verdicts = [GateVerdict.Name(look.verdict).removeprefix("GATE_VERDICT_") for look in looks(record)]
    assert verdicts == ["EXTEND", "EXTEND", "FAIL"]
    assert [look.stack.look for look in looks(record)] == [1, 1, 2]
    assert record.extended
    assert looks(record)[-1].stack.HasField("gain_at_equal_flops")
    words = [look.detail.partition(": ")[0] for look in looks(record)]
    assert words == ["look 1, early", "look 1", "look 2"]
    assert "; at equal FLOPs -0.0" in record.gates[-1].detail
    assert made.state.growth.looks_since_fossil == 2
    assert made.state.growth.judged == 1
    culled = made.order(on_seed("CULL", step=made.step))
    assert kinds(culled.directives) == ["INSTALL_TWIN"]
    assert made.until("DORMANT")


def test_too_many_clipped_tokens_keep_nothing_however_large_the_gain() -> None:
    made = course(gain=0.5, clipped_share=0.03)
    grafted(made)
    assert "3.0% of the tokens are clipped" in made.until("PROBATIONARY", "FAIL").gates[-1].detail


def test_an_evaluation_that_could_not_be_made_fails_the_judgement() -> None:
    made = course(faults={K.DIRECTIVE_KIND_JUDGE: {"succeeded": False, "failure": "out of memory"}})
    grafted(made)
    assert "out of memory" in made.until("PROBATIONARY", "FAIL").gates[-1].detail


def test_an_observation_that_comes_twice_counts_once() -> None:
    made = course(gain=0.001)
    record = grafted(made)
    for _ in range(12):
        made.boundary()
    steps = [evaluation.step for evaluation in record.evaluations]
    assert steps == sorted(set(steps))
    again = list(record.evaluations)
    take_evaluations(record, again)
    assert [evaluation.step for evaluation in record.evaluations] == steps


def test_looks_since_the_last_kept_seed_raise_the_threshold_of_the_next_stack() -> None:
    made = course(gain=0.001)
    grafted(made)
    made.until("PROBATIONARY", "FAIL")
    first = [look.stack.z_threshold for look in looks(made.state.seeds[-1])]
    made.order(on_seed("CULL", step=made.step))
    made.until("DORMANT")
    assert made.state.growth.looks_since_fossil == 2
    for _ in range(3):
        made.boundary()  # its slot opens again
    record = grafted(made, "s2")
    assert record.look == 3
    second = [look.stack.z_threshold for look in looks(made.until("PROBATIONARY", "FAIL"))]
    assert all(late > early for early, late in zip(first, second, strict=False))


def test_where_packets_are_rare_the_early_look_is_left_out() -> None:
    made = course(stack_run(reaction_steps=45))
    record = grafted(made)
    steps = [directive.at_step for directive in record.pending]
    assert steps[0] > record.grafted_step + 90
    assert len(steps) in (8, 16)


@pytest.mark.parametrize(
    ("fields", "step", "reason", "words"),
    [
        ({"growth_end_step": 300}, 200, "GROWTH_ENDED", "must end by step 280"),
        ({"reaction_steps": 100}, 100, "GROWTH_ENDED", "hand packets over more often"),
        ({"stack": stack_judging(evaluations=60)}, 100, "GROWTH_ENDED", "don't fit into the last third"),
        ({"judge": JudgeMode.JUDGE_MODE_MUTED}, 100, "GROWTH_ENDED", "judged against its twin"),
    ],
)
def test_a_stack_that_could_not_be_judged_is_not_grafted(
    fields: dict[str, Any], step: int, reason: str, words: str
) -> None:
    told = refusal(stack_run(**fields), step)
    assert told[0] == reason
    assert words in told[1]


def test_a_run_that_was_opened_without_settings_for_stacks_takes_none() -> None:
    run = stack_run()
    run.life.ClearField("stack")
    assert "without settings for judging stacks" in refusal(run)[1]


def test_more_blocks_than_the_run_has_are_refused() -> None:
    operation = {"parameters": [ParameterValue(name="blocks", value=4)]}
    reason, words = refusal(stack_run(depth=3), blueprint_id="stack.part", operation=operation)
    assert (reason, words) == ("BLUEPRINT_MISFIT", "stack:blocks has 3 blocks; 4 of them can't be repeated")


def test_a_stack_with_a_blend_is_refused() -> None:
    reason, words = refusal(stack_run(), operation={"blend": rising_blend()})
    assert (reason, words[:23]) == ("INVALID_BLEND", "a stack has no blend: g")


def test_a_budget_counts_the_blocks_of_now() -> None:
    run = stack_run(depth=3)
    run.budget.CopyFrom(Budget(max_parameters=850))
    work = turn(step=100, run=run)
    assert dispatch.apply(work, double(step=100)).accepted
    work = turn(step=100, run=run)
    shape = {"width": 8, "in_features": 8, "out_features": 8}
    work.state.slots.append(SlotSignal(slot_id=STACK_SLOT, depth=4, **shape))
    outcome = dispatch.apply(work, double(step=100))
    assert "with this seed it would be 900" in outcome.detail


def test_an_operator_may_keep_or_cull_a_stack_and_not_skip_its_graft() -> None:
    made = course(gain=0.001)
    grafted(made)
    advance = {"target_stage": SeedStage.SEED_STAGE_SHADOWING}
    work = turn(made.state, made.step, made.run)
    told = on_seed("ADVANCE_TO", step=made.step, issued_by="operator:ann", operation=advance)
    assert "fixed by its graft" in dispatch.apply(work, told).detail
    keep = {"target_stage": SeedStage.SEED_STAGE_FOSSILIZED}
    kept = made.order(on_seed("ADVANCE_TO", step=made.step, issued_by="operator:ann", operation=keep))
    assert kinds(kept.directives) == ["DROP_TWIN"]


def test_a_kept_stacks_recovery_lengthens_the_next_ones_window_and_never_shortens_it() -> None:
    made = course()
    grafted(made)
    made.until("PROBATIONARY", "PASS")
    made.order(on_seed("FOSSILIZE", step=made.step))
    assert expected_recovery(turn(made.state, made.step, made.run)) == 120
    record = made.state.seeds[-1]
    for index, told in enumerate(record.evaluations):
        told.twin.mean = 0.05 if index > 6 else -0.05
    late = record.evaluations[7].step - record.grafted_step
    made.run.life.stack.recovery_steps = late - 5
    assert expected_recovery(turn(made.state, made.step, made.run)) == late


def test_the_evaluations_of_a_plan_rise_across_its_looks() -> None:
    record = grafted(course())
    steps = [directive.at_step for directive in record.pending]
    assert all(early < late for early, late in itertools.pairwise(steps))


def test_a_stacks_evidence_counts_documents_and_so_does_its_error() -> None:
    made = course(gain=0.05, documents={"documents": 120, "standard_error": 0.004})
    grafted(made)
    (look,) = looks(made.until("PROBATIONARY", "PASS"))
    assert (look.samples, look.documents) == (356, 120)
    assert look.stack.document_error == pytest.approx(0.004)


def gave_way(made: Course, seed_id: str = "s1") -> None:
    """What the executor tells when it had no room for the grown network any more."""
    told = report_of(made, seed_id)
    made.executor.reports.append(told)
    made.executor.living.pop(seed_id, None)


def report_of(made: Course, seed_id: str) -> DirectiveReport:
    return DirectiveReport(
        directive_id=f"{seed_id}:undone",
        seed_id=seed_id,
        kind=K.DIRECTIVE_KIND_INSTALL_TWIN,
        step=made.step,
        succeeded=True,
        failure="memory ran out in step 7: CUDA out of memory",
    )


def test_a_stack_that_had_no_room_fails_its_gate_with_the_reason_and_is_culled() -> None:
    made = course()
    grafted(made)
    gave_way(made)
    record = made.until("PROBATIONARY", "FAIL")
    assert record.gates[-1].detail == "memory ran out in step 7: CUDA out of memory"
    assert record.gates[-1].gate == SeedGate.SEED_GATE_G4_SYSTEM_IMPACT
    before = len(record.gates)
    made.executor.reports.append(report_of(made, "s1"))
    made.boundary()
    assert len(record.gates) == before
    culled = made.order(on_seed("CULL", step=made.step))
    assert kinds(culled.directives) == ["INSTALL_TWIN"]
    assert made.until("EMBARGOED").state.seed_id == "s1"
    assert made.state.growth.embargoes


def test_a_stack_that_is_being_kept_and_has_no_room_is_culled_and_not_counted_as_kept() -> None:
    made = course(gain=0.05)
    grafted(made)
    made.until("PROBATIONARY", "PASS")
    before = made.state.growth.added_parameters
    made.order(on_seed("FOSSILIZE", step=made.step))
    made.executor.queue.clear()
    gave_way(made)
    made.boundary()
    record = made.state.seeds[-1]
    assert record.state.stage == SeedStage.SEED_STAGE_CULLED
    assert (made.state.growth.kept, made.state.growth.added_parameters) == (0, before)
    assert made.until("EMBARGOED").state.seed_id == "s1"


def test_a_stack_that_is_kept_for_good_is_not_culled_by_a_late_word() -> None:
    made = course(gain=0.05)
    grafted(made)
    made.until("PROBATIONARY", "PASS")
    made.order(on_seed("FOSSILIZE", step=made.step))
    made.boundary()
    gave_way(made)
    made.boundary()
    assert made.state.seeds[-1].state.stage == SeedStage.SEED_STAGE_FOSSILIZED
