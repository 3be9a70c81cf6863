"""Commands against a run's state: what acts, what is refused and why, what follows."""

from collections.abc import Callable
from typing import Any

import pytest

from esper.kasmina.control.orders import dispatch
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import (
    AdaptationCommand,
    Budget,
    CircuitBreakerOrder,
    CircuitState,
    CommandOutcome,
    Embargo,
    EmergencyLevel,
    EmergencyOrder,
    GateVerdict,
    IncubationMode,
    JudgeMode,
    KasminaRunState,
    OptimizerAdjustment,
    ParameterValue,
    PauseOrder,
    PruneOrder,
    ResumeOrder,
    RollbackOrder,
    SeedGate,
    SeedStage,
)
from tests.unit.kasmina.control.making import (
    RESIDUAL_SLOT,
    SLOT,
    command,
    fresh_state,
    germinate,
    kinds,
    life,
    on_seed,
    refusal_of,
    rising_blend,
    spec,
    turn,
    warm_blend,
)

OPERATOR = "operator:ada"
CONTROL = {"blueprint_id": "control.random_frozen", "blend": rising_blend()}


def applied(asked: AdaptationCommand, on: Turn | None = None) -> CommandOutcome:
    return dispatch.apply(on or turn(step=asked.step), asked)


def grown(stage: SeedStage = SeedStage.SEED_STAGE_BLENDING, **run: Any) -> KasminaRunState:
    """A state with seed s1, germinated at step 100 and put into a stage."""
    work = turn(step=100, run=spec(**run))
    assert dispatch.apply(work, germinate(step=100)).accepted
    work.state.seeds[0].state.stage = stage
    work.state.seeds[0].grafted_step = 110
    del work.state.seeds[0].pending[:]
    return work.state


def test_a_germination_builds_beside_a_twin_and_attaches_at_once() -> None:
    work = turn(step=100)
    outcome = applied(germinate(), work)
    assert outcome.accepted
    assert kinds(outcome.directives) == ["SNAPSHOT_TWIN", "BUILD", "ATTACH"]
    build, attach = outcome.directives[1:]
    assert build.artifact_digest == work.catalog.get("span.linear").artifact.digest
    assert {p.name: p.value for p in build.parameters} == {"width": 8.0}
    assert (build.initialization_seed, attach.blend) == (7, warm_blend())
    assert [d.directive_id for d in outcome.directives] == ["d1", "d2", "d3"]
    assert [(t.from_stage, t.to_stage) for t in outcome.transitions] == [
        (SeedStage.SEED_STAGE_DORMANT, SeedStage.SEED_STAGE_GERMINATED)
    ]
    assert work.state.growth.germinated == 1


def test_without_a_twin_none_is_taken() -> None:
    work = turn(step=100, run=spec(life=life(judge=JudgeMode.JUDGE_MODE_MUTED)))
    assert kinds(applied(germinate(), work).directives) == ["BUILD", "ATTACH"]


def test_an_incubated_seed_is_built_and_trained_before_it_is_attached() -> None:
    incubating = spec(life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW, isolate=True))
    outcome = applied(germinate(operation={"blend": rising_blend()}), turn(step=100, run=incubating))
    assert kinds(outcome.directives) == ["BUILD", "INCUBATE"]
    assert (outcome.directives[1].duration_steps, outcome.directives[1].isolate) == (100, True)


def test_a_control_is_never_incubated() -> None:
    run = spec(
        life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW), named_blueprint_ids=["control.random_frozen"]
    )
    outcome = applied(germinate(operation=CONTROL), turn(step=100, run=run))
    assert kinds(outcome.directives) == ["SNAPSHOT_TWIN", "BUILD", "ATTACH"]


def closed_slot(state: KasminaRunState) -> None:
    state.growth.embargoes.append(Embargo(slot_id=germinate().seed.slot_id, until_step=101))


def ended(state: KasminaRunState) -> None:
    state.growth.ended = True


def paused(state: KasminaRunState) -> None:
    state.growth.paused = True


@pytest.mark.parametrize(
    ("operation", "prepare", "reason"),
    [
        ({"slot_id": "nowhere"}, None, "UNKNOWN_SLOT"),
        ({"blueprint_id": "span.cubic"}, None, "UNKNOWN_BLUEPRINT"),
        ({"blueprint_id": "span.conv"}, None, "BLUEPRINT_MISFIT"),
        ({"slot_id": RESIDUAL_SLOT}, None, "BLUEPRINT_MISFIT"),
        ({"parameters": [ParameterValue(name="width", value=0.5)]}, None, "BLUEPRINT_MISFIT"),
        ({"parameters": [ParameterValue(name="depth", value=1)]}, None, "BLUEPRINT_MISFIT"),
        (CONTROL, None, "BLUEPRINT_MISFIT"),
        ({"blend": warm_blend(alpha_target=2.0)}, None, "INVALID_BLEND"),
        ({"include_teacher": True}, None, "UNSUPPORTED_ACTION"),
        ({}, closed_slot, "SLOT_EMBARGOED"),
        ({}, ended, "GROWTH_ENDED"),
        ({}, paused, "PAUSED"),
    ],
)
def test_a_germination_that_cannot_be_is_refused_with_its_reason(
    operation: dict[str, Any], prepare: Callable[[KasminaRunState], None] | None, reason: str
) -> None:
    state = fresh_state()
    if prepare:
        prepare(state)
    outcome = applied(germinate(operation=operation), turn(state, step=100))
    assert (outcome.accepted, refusal_of(outcome)) == (False, reason)
    assert outcome.detail


def test_a_control_by_an_operator_needs_no_other_name() -> None:
    assert applied(germinate(operation=CONTROL, issued_by=OPERATOR)).accepted


def test_a_control_that_starts_loud_is_refused() -> None:
    loud = {**CONTROL, "blend": warm_blend()}
    assert refusal_of(applied(germinate(operation=loud, issued_by=OPERATOR))) == "INVALID_BLEND"


def test_one_seed_lives_at_a_time() -> None:
    state = grown()
    assert refusal_of(applied(germinate("s2", step=120), turn(state, step=120))) == "LIFECYCLE_CONFLICT"


def test_a_seed_id_is_used_once() -> None:
    state = grown(SeedStage.SEED_STAGE_FOSSILIZED)
    again = germinate("s1", step=400, command_id="other")
    assert refusal_of(applied(again, turn(state, step=400))) == "LIFECYCLE_CONFLICT"


def test_the_last_germination_is_the_one_whose_judgement_ends_before_the_decay() -> None:
    last = 1500 - 200 - 4 * 10
    assert applied(germinate(step=last)).accepted
    assert refusal_of(applied(germinate(step=last + 1))) == "GROWTH_ENDED"


def test_incubation_counts_into_the_time_that_is_left() -> None:
    incubating = spec(life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW))
    last = 1500 - 200 - 4 * 10 - 100
    blend = {"blend": rising_blend()}
    assert applied(germinate(step=last, operation=blend), turn(step=last, run=incubating)).accepted
    late = applied(germinate(step=last + 1, operation=blend), turn(step=last + 1, run=incubating))
    assert refusal_of(late) == "GROWTH_ENDED"


def test_a_seed_that_breaks_the_budget_is_refused() -> None:
    run = spec(budget=Budget(max_parameters=500 + 8 * 64 + 8 + 48 - 1))
    assert refusal_of(applied(germinate(), turn(step=100, run=run))) == "BUDGET_EXCEEDED"


def test_an_operators_factor_is_built_as_units_of_the_layer_as_last_reported_and_priced_so() -> None:
    doubled = {"parameters": [ParameterValue(name="factor", value=2.0)]}
    state = fresh_state()
    for width in (6, 14):
        built = applied(germinate(operation=doubled), turn(state, step=100)).directives[1]
        assert {p.name: p.value for p in built.parameters} == {"width": width}
        state = fresh_state()
        state.slots.add(slot_id=SLOT, width=14, in_features=64, out_features=6)
    tight = spec(budget=Budget(max_parameters=500 + 8 * (64 + 1 + 6)))
    assert applied(germinate(operation=doubled), turn(step=100, run=tight)).accepted
    assert refusal_of(applied(germinate(operation=doubled), turn(state, step=100, run=tight))) == "BUDGET_EXCEEDED"


def test_a_missing_artefact_refuses_the_germination() -> None:
    outcome = applied(germinate(), turn(step=100, artifact_problem="artefact is damaged"))
    assert refusal_of(outcome) == "UNKNOWN_BLUEPRINT"


def test_a_command_of_another_generation_or_past_its_deadline_is_refused() -> None:
    earlier = applied(germinate(generation=1))
    assert refusal_of(earlier) == "WRONG_GENERATION"
    assert "sign anew for generation 0, which the run's directory says in checkpoints/generation" in earlier.detail
    late = germinate(step=100, deadline_steps=20)
    assert refusal_of(applied(late, turn(step=121))) == "DEADLINE_PASSED"
    assert applied(late, turn(step=120)).accepted


def test_a_policy_cannot_move_the_run_beyond_its_end() -> None:
    state = fresh_state()
    assert refusal_of(applied(germinate(step=2101), turn(state, step=2101))) == "MALFORMED_PAYLOAD"
    assert state.step == 0


def test_an_issuer_without_a_name_is_refused() -> None:
    for issuer in ("operator:", "ada", "Tamiyo"):
        assert refusal_of(applied(germinate(issued_by=issuer))) == "MALFORMED_PAYLOAD"


def test_a_seed_is_kept_only_after_its_judgement() -> None:
    state = grown(SeedStage.SEED_STAGE_PROBATIONARY)
    assert refusal_of(applied(on_seed("FOSSILIZE", step=320), turn(state, step=320))) == "GATE_REFUSED"
    seed = state.seeds[0].state
    seed.gate, seed.verdict = SeedGate.SEED_GATE_G3_INTERFACE, GateVerdict.GATE_VERDICT_PASS
    assert refusal_of(applied(on_seed("FOSSILIZE", step=320), turn(state, step=320))) == "GATE_REFUSED"
    seed.gate, seed.verdict = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT, GateVerdict.GATE_VERDICT_PASS
    state.growth.looks_since_fossil = 3
    state.growth.culls_in_row = 1
    kept = applied(on_seed("FOSSILIZE", step=320), turn(state, step=320))
    assert kinds(kept.directives) == ["FOLD", "DROP_TWIN"]
    assert (state.growth.kept, state.growth.looks_since_fossil, state.growth.culls_in_row) == (1, 0, 0)
    assert seed.stage == SeedStage.SEED_STAGE_FOSSILIZED


@pytest.mark.parametrize("judge", [JudgeMode.JUDGE_MODE_TWIN, JudgeMode.JUDGE_MODE_MUTED])
@pytest.mark.parametrize(("slot_id", "blueprint_id"), [(SLOT, "span.linear"), (RESIDUAL_SLOT, "residual.linear")])
def test_the_executor_is_told_that_a_kept_seed_is_permanent_under_either_judge(
    judge: JudgeMode, slot_id: str, blueprint_id: str
) -> None:
    state = grown(SeedStage.SEED_STAGE_PROBATIONARY)
    seed = state.seeds[0].state
    seed.slot_id, seed.blueprint_id = slot_id, blueprint_id
    seed.gate, seed.verdict = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT, GateVerdict.GATE_VERDICT_PASS
    kept = applied(on_seed("FOSSILIZE", step=320), turn(state, step=320, run=spec(life=life(judge=judge))))
    assert kinds(kept.directives) == [*(["FOLD"] if slot_id == SLOT else []), "DROP_TWIN"]


@pytest.mark.parametrize("blend", [warm_blend(alpha_start=0.5, alpha_target=0.5), rising_blend(alpha_target=0.9)])
def test_only_a_seed_that_is_fully_in_is_folded(blend: Any) -> None:
    state = grown(SeedStage.SEED_STAGE_PROBATIONARY)
    record = state.seeds[0]
    record.germination.blend.CopyFrom(blend)
    record.state.gate, record.state.verdict = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT, GateVerdict.GATE_VERDICT_PASS
    assert kinds(applied(on_seed("FOSSILIZE", step=320), turn(state, step=320)).directives) == ["DROP_TWIN"]


@pytest.mark.parametrize(
    "stage",
    [
        SeedStage.SEED_STAGE_DORMANT,
        SeedStage.SEED_STAGE_BLENDING,
        SeedStage.SEED_STAGE_CULLED,
        SeedStage.SEED_STAGE_FOSSILIZED,
    ],
)
def test_a_seed_in_another_stage_is_not_kept(stage: SeedStage) -> None:
    outcome = applied(on_seed("FOSSILIZE", step=320), turn(grown(stage), step=320))
    assert refusal_of(outcome) == "LIFECYCLE_CONFLICT"


def test_a_cull_installs_the_twin() -> None:
    state = grown(SeedStage.SEED_STAGE_SHADOWING)
    assert kinds(applied(on_seed("CULL", step=150), turn(state, step=150)).directives) == ["INSTALL_TWIN"]
    assert state.seeds[0].state.stage == SeedStage.SEED_STAGE_CULLED


def test_a_cull_without_a_twin_fades_what_was_attached_and_removes_what_was_not() -> None:
    muted = spec(life=life(judge=JudgeMode.JUDGE_MODE_MUTED))
    attached = grown(SeedStage.SEED_STAGE_BLENDING)
    outcome = applied(on_seed("CULL", step=150), turn(attached, step=150, run=muted))
    assert kinds(outcome.directives) == ["FADE"]
    assert outcome.directives[0].duration_steps == 20
    built = grown(SeedStage.SEED_STAGE_GERMINATED)
    built.seeds[0].ClearField("grafted_step")
    assert kinds(applied(on_seed("CULL", step=150), turn(built, step=150, run=muted)).directives) == ["REMOVE"]


def test_an_incubating_seed_has_no_twin_to_install() -> None:
    run = spec(life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW))
    work = turn(step=100, run=run)
    assert applied(germinate(operation={"blend": rising_blend()}), work).accepted
    culled = applied(on_seed("CULL", step=120), turn(work.state, step=120, run=run))
    assert kinds(culled.directives) == ["REMOVE"]


@pytest.mark.parametrize("kind", ["FOSSILIZE", "CULL"])
def test_an_unknown_seed_is_refused(kind: str) -> None:
    assert refusal_of(applied(on_seed(kind, "s9", step=1))) == "UNKNOWN_SEED"


def test_a_blend_changes_only_while_the_seed_blends() -> None:
    change = on_seed("CHANGE_BLEND", step=150, operation={"blend": rising_blend()})
    state = grown()
    outcome = applied(change, turn(state, step=150))
    assert kinds(outcome.directives) == ["SET_BLEND"]
    assert state.seeds[0].germination.blend == rising_blend()
    judged = turn(grown(SeedStage.SEED_STAGE_PROBATIONARY), step=150)
    assert refusal_of(applied(change, judged)) == "LIFECYCLE_CONFLICT"
    broken = on_seed("CHANGE_BLEND", step=150, operation={"blend": warm_blend(alpha_start=0.5)})
    assert refusal_of(applied(broken, turn(grown(), step=150))) == "INVALID_BLEND"


@pytest.mark.parametrize(
    ("from_stage", "to_stage", "directives"),
    [
        ("BLENDING", "SHADOWING", ["PROBE"]),
        ("SHADOWING", "PROBATIONARY", ["JUDGE"]),
        ("PROBATIONARY", "FOSSILIZED", ["FOLD", "DROP_TWIN"]),
        ("PROBATIONARY", "CULLED", ["INSTALL_TWIN"]),
        ("TRAINING", "BLENDING", ["SNAPSHOT_TWIN", "ATTACH"]),
        ("CULLED", "EMBARGOED", ["CHECK_RESET"]),
        ("EMBARGOED", "RESETTING", []),
        ("RESETTING", "DORMANT", []),
    ],
)
def test_an_operator_may_skip_a_gate_but_not_a_stage(from_stage: str, to_stage: str, directives: list[str]) -> None:
    target = {"target_stage": SeedStage.Value(f"SEED_STAGE_{to_stage}")}
    override = on_seed("ADVANCE_TO", step=150, issued_by=OPERATOR, operation=target)
    stage = SeedStage.Value(f"SEED_STAGE_{from_stage}")
    assert kinds(applied(override, turn(grown(stage), step=150)).directives) == directives
    by_policy = on_seed("ADVANCE_TO", step=150, operation=target)
    assert refusal_of(applied(by_policy, turn(grown(stage), step=150))) == "UNSUPPORTED_ACTION"


@pytest.mark.parametrize(
    ("from_stage", "to_stage"), [("BLENDING", "FOSSILIZED"), ("FOSSILIZED", "CULLED"), ("BLENDING", "TERMINATED")]
)
def test_an_override_outside_the_lifecycle_is_refused(from_stage: str, to_stage: str) -> None:
    target = {"target_stage": SeedStage.Value(f"SEED_STAGE_{to_stage}")}
    override = on_seed("ADVANCE_TO", step=150, issued_by=OPERATOR, operation=target)
    state = grown(SeedStage.Value(f"SEED_STAGE_{from_stage}"))
    assert refusal_of(applied(override, turn(state, step=150))) == "LIFECYCLE_CONFLICT"


def test_growth_pauses_and_resumes() -> None:
    state = fresh_state()
    order = command("p", issued_by=OPERATOR, pause=PauseOrder(rationale="look"))
    assert kinds(applied(order, turn(state)).directives) == ["PAUSE_GROWTH"]
    assert state.growth.paused
    resume = command("r", issued_by=OPERATOR, resume=ResumeOrder(rationale="go on"))
    assert kinds(applied(resume, turn(state)).directives) == ["RESUME_GROWTH"]
    assert refusal_of(applied(resume, turn(state))) == "LIFECYCLE_CONFLICT"


@pytest.mark.parametrize(
    ("level", "directives", "in_force"),
    [
        ("L1_NOTICE", [], "L1_NOTICE"),
        ("L2_ELEVATED", [], "L2_ELEVATED"),
        ("L3_CONSERVATIVE", [], "L3_CONSERVATIVE"),
        ("L4_HALT", ["HALT"], "UNSPECIFIED"),
    ],
)
def test_an_emergency_does_what_its_level_says(level: str, directives: list[str], in_force: str) -> None:
    state = fresh_state()
    order = command("e", issued_by=OPERATOR, emergency=emergency(level))
    assert kinds(applied(order, turn(state)).directives) == directives
    assert EmergencyLevel.Name(state.growth.emergency) == f"EMERGENCY_LEVEL_{in_force}"
    assert not state.growth.paused


def test_a_grave_emergency_ends_the_seed_in_flight() -> None:
    state = fresh_state()
    applied(germinate(), turn(state))
    ended = applied(command("e", issued_by=OPERATOR, emergency=emergency("L3_CONSERVATIVE")), turn(state))
    assert state.seeds[0].state.stage == SeedStage.SEED_STAGE_CULLED
    assert "INSTALL_TWIN" in kinds(ended.directives) or "REMOVE" in kinds(ended.directives)


def test_nothing_is_germinated_until_weatherlight_says_that_a_grave_emergency_is_over() -> None:
    state = fresh_state()
    applied(command("e", issued_by=OPERATOR, emergency=emergency("L3_CONSERVATIVE")), turn(state))
    assert refusal_of(applied(germinate("s2"), turn(state))) == "PAUSED"
    for issuer, is_over in ((OPERATOR, False), ("operator:weatherlight", True)):
        applied(command(f"n-{issuer}", issued_by=issuer, emergency=emergency("L1_NOTICE")), turn(state))
        assert (state.growth.emergency < EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE) == is_over


def emergency(level: str) -> EmergencyOrder:
    return EmergencyOrder(level=EmergencyLevel.Value(f"EMERGENCY_LEVEL_{level}"), rationale="smoke")


def test_a_rollback_names_a_step_that_was_reached() -> None:
    order = command("r", issued_by=OPERATOR, rollback=RollbackOrder(rationale="worse", to_step=90))
    outcome = applied(order, turn(step=100))
    assert kinds(outcome.directives) == ["ROLLBACK"]
    assert outcome.directives[0].to_step == 90
    assert refusal_of(applied(order, turn(step=80))) == "MALFORMED_PAYLOAD"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (OptimizerAdjustment(learning_rate_factor=0.5), ""),
        (OptimizerAdjustment(momentum=0.0, weight_decay=0.1), ""),
        (OptimizerAdjustment(), "MALFORMED_PAYLOAD"),
        (OptimizerAdjustment(learning_rate_factor=0.001), "MALFORMED_PAYLOAD"),
        (OptimizerAdjustment(momentum=1.0), "MALFORMED_PAYLOAD"),
        (OptimizerAdjustment(weight_decay=float("nan")), "MALFORMED_PAYLOAD"),
    ],
)
def test_an_optimiser_is_changed_within_bounds(change: OptimizerAdjustment, reason: str) -> None:
    outcome = applied(command("o", optimizer=change))
    assert outcome.accepted == (not reason)
    if reason:
        assert refusal_of(outcome) == reason
    else:
        assert kinds(outcome.directives) == ["ADJUST_OPTIMIZER"]


def test_a_breaker_must_be_known() -> None:
    def order(name: str) -> AdaptationCommand:
        breaker = CircuitBreakerOrder(breaker=name, desired_state=CircuitState.CIRCUIT_STATE_OPEN, rationale="r")
        return command("b", issued_by=OPERATOR, circuit_breaker=breaker)

    assert applied(order("artifacts")).accepted
    assert refusal_of(applied(order("fuse"))) == "UNSUPPORTED_ACTION"


def test_only_a_permanent_module_is_pruned() -> None:
    prune = command("p", issued_by=OPERATOR, step=900, prune=PruneOrder(seed_id="s1", rationale="slow"))
    assert refusal_of(applied(prune, turn(grown(), step=900))) == "LIFECYCLE_CONFLICT"
    state = grown(SeedStage.SEED_STAGE_FOSSILIZED)
    state.seeds[0].state.is_folded = True
    assert refusal_of(applied(prune, turn(state, step=900))) == "LIFECYCLE_CONFLICT"
    state.seeds[0].state.is_folded = False
    state.growth.kept = 1
    assert kinds(applied(prune, turn(state, step=900)).directives) == ["FADE"]
    assert state.growth.kept == 0


def test_a_refusal_leaves_no_trace_in_what_the_caller_stores() -> None:
    state = fresh_state()
    before = state.SerializeToString(deterministic=True)
    outcome = applied(germinate(operation={"slot_id": "nowhere"}), turn(state, step=100))
    assert not outcome.accepted
    assert state.SerializeToString(deterministic=True) == before


def test_the_same_command_on_the_same_state_gives_the_same_outcome() -> None:
    outcomes = [applied(germinate(), turn(step=100)).SerializeToString(deterministic=True) for _ in range(3)]
    assert len(set(outcomes)) == 1
