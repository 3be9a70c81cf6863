"""Lives of seeds under their gates, from germination to their end."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from esper.core.errors import DependencyViolationError
from esper.kasmina.control.orders import dispatch
from esper.kasmina.control.reporting import seed_metrics
from esper.kasmina.control.stages.advance import advance, terminate
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import (
    AdaptationCommand,
    GateEvidence,
    GateVerdict,
    IncubationMode,
    JudgeMode,
    KasminaRunSpec,
    KasminaRunState,
    SeedDirective,
    SeedGate,
    SeedRecord,
    SeedStage,
    SlotSignal,
    StageTransition,
)
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import (
    SLOT,
    K,
    fresh_state,
    germinate,
    kinds,
    life,
    observation,
    on_seed,
    refusal_of,
    report,
    request,
    rising_blend,
    spec,
    turn,
)


@dataclass
class Course:
    """A run whose trainer is the fake executor, stepping ten steps at a time."""

    run: KasminaRunSpec = field(default_factory=spec)
    executor: FakeExecutor = field(default_factory=FakeExecutor)
    state: KasminaRunState = field(default_factory=fresh_state)
    transitions: list[StageTransition] = field(default_factory=list)
    gates: list[GateEvidence] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    step: int = 100

    def order(self, command: AdaptationCommand) -> Turn:
        work = turn(self.state, self.step, self.run)
        outcome = dispatch.apply(work, command)
        assert outcome.accepted, outcome.detail
        self._keep(work)
        return work

    def boundary(self) -> Turn:
        self.step += 10
        work = turn(self.state, self.step, self.run)
        advance(work, self.executor.evidence_at(self.step))
        self._keep(work)
        return work

    def until(self, stage: str, verdict: str = "") -> SeedRecord:
        """Step on until the newest seed is in the stage, with the verdict if one is named."""
        for _ in range(200):
            seed = self.state.seeds[-1].state
            is_there = SeedStage.Name(seed.stage) == f"SEED_STAGE_{stage}"
            if is_there and (not verdict or GateVerdict.Name(seed.verdict) == f"GATE_VERDICT_{verdict}"):
                return self.state.seeds[-1]
            self.boundary()
        raise AssertionError(f"never {stage} {verdict}: {self.path}, {[g.detail for g in self.gates]}")

    def _keep(self, work: Turn) -> None:
        self.executor.take(work.directives, self.step)
        self.transitions += work.transitions
        self.gates += work.gates
        self.notices += [notice.spec.name for notice in work.notices]

    @property
    def path(self) -> list[str]:
        return [SeedStage.Name(t.to_stage).removeprefix("SEED_STAGE_") for t in self.transitions]

    @property
    def verdicts(self) -> list[tuple[int, str]]:
        return [(g.gate - 1, GateVerdict.Name(g.verdict).removeprefix("GATE_VERDICT_")) for g in self.gates]


def begun(run: KasminaRunSpec | None = None, *, operation: dict[str, Any] | None = None, **executor: Any) -> Course:
    course = Course(run=run or spec(), executor=FakeExecutor(**executor))
    course.order(germinate(step=100, operation=operation))
    return course


def test_what_a_probe_found_of_interference_stays_told() -> None:
    course = Course()
    course.order(germinate())
    course.until("BLENDING")
    assert "kasmina.seed.interference" not in {figure.name for figure in seed_metrics(course.state)}
    assert course.until("PROBATIONARY").state.interference == 0.9
    told = {figure.name: figure.value for figure in seed_metrics(course.state)}
    assert told["kasmina.seed.interference"] == 0.9


def test_a_useful_seed_is_kept_and_folded() -> None:
    course = begun(gain=0.05)
    record = course.until("PROBATIONARY", "PASS")
    assert course.verdicts == [(0, "PASS"), (1, "PASS"), (2, "PASS"), (3, "PASS"), (4, "PASS")]
    assert course.step == record.grafted_step + 200
    assert (record.state.gain, record.look) == (pytest.approx(0.05), 1)
    course.order(on_seed("FOSSILIZE", step=course.step))
    course.boundary()
    assert course.path == ["GERMINATED", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"]
    assert course.state.seeds[0].state.is_folded
    growth = course.state.growth
    assert (growth.germinated, growth.judged, growth.kept, growth.added_parameters) == (1, 1, 1, 568)


def test_a_useless_seed_is_culled_embargoed_and_cleared() -> None:
    course = begun(gain=-0.05)
    course.until("PROBATIONARY", "FAIL")
    course.order(on_seed("CULL", step=course.step))
    culled_step = course.until("EMBARGOED").state.stage_step
    embargo = course.state.growth.embargoes[0]
    assert (embargo.slot_id, embargo.until_step) == (SLOT, culled_step + 50 + 20)
    course.until("DORMANT")
    assert course.path[-4:] == ["CULLED", "EMBARGOED", "RESETTING", "DORMANT"]
    refused = dispatch.apply(turn(course.state, embargo.until_step - 1), germinate("s2", step=embargo.until_step - 1))
    assert refusal_of(refused) == "SLOT_EMBARGOED"
    while course.step < embargo.until_step:
        course.boundary()
    assert not course.state.growth.embargoes
    course.order(germinate("s2", step=course.step))


def test_an_undecided_seed_gets_one_more_window_and_a_higher_bar() -> None:
    course = begun(gain=0.012)
    record = course.until("PROBATIONARY", "EXTEND")
    first_end = record.grafted_step + 200
    assert record.extended
    assert (record.look, record.window_end_step) == (2, first_end + 200)
    assert course.state.growth.judged == 0
    course.until("PROBATIONARY", "FAIL")
    assert course.step == first_end + 200
    assert [g.twin.look for g in course.gates if g.HasField("twin")] == [1, 2]
    assert (course.state.growth.judged, course.state.growth.looks_since_fossil) == (1, 2)


def test_no_window_is_given_that_would_end_in_the_decay() -> None:
    course = begun(spec(life=life(growth_end_step=529)), gain=0.012)
    record = course.until("PROBATIONARY", "FAIL")
    assert not record.extended
    assert "no further window" in course.gates[-1].detail


def test_two_failed_judgements_in_a_row_end_growth() -> None:
    course = begun(gain=-0.05)
    for seed_id in ("s1", "s2"):
        course.until("PROBATIONARY", "FAIL")
        course.order(on_seed("CULL", seed_id, step=course.step))
        course.until("DORMANT")
        if seed_id == "s1":
            assert not course.state.growth.ended
            course.boundary(), course.boundary(), course.boundary()
            course.order(germinate("s2", step=course.step))
    assert course.state.growth.ended
    assert "growth_ended" in course.notices


def test_looks_go_on_counting_over_seeds_until_one_is_kept() -> None:
    course = begun(gain=-0.05)
    course.until("PROBATIONARY", "FAIL")
    course.order(on_seed("CULL", step=course.step))
    course.until("DORMANT")
    course.boundary(), course.boundary(), course.boundary()
    course.executor.gain = 0.05
    course.order(germinate("s2", step=course.step))
    assert course.until("PROBATIONARY", "PASS").look == 2
    course.order(on_seed("FOSSILIZE", "s2", step=course.step))
    assert (course.state.growth.looks_since_fossil, course.state.growth.culls_in_row) == (0, 0)


def test_an_incubated_seed_is_attached_after_its_training() -> None:
    run = spec(life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW))
    course = begun(run, operation={"blend": rising_blend()})
    record = course.until("TRAINING")
    assert not record.HasField("grafted_step")
    course.until("BLENDING")
    assert kinds([d for _, d in course.executor.queue]) == ["SNAPSHOT_TWIN", "ATTACH"]
    record = course.until("PROBATIONARY", "PASS")
    assert record.window_end_step == record.grafted_step + 200
    assert course.path == ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"]


def test_without_a_twin_a_culled_seed_fades_before_it_is_gone() -> None:
    run = spec(life=life(judge=JudgeMode.JUDGE_MODE_MUTED))
    course = begun(run, evidence={"smoothed_loss": math.nan})
    course.until("BLENDING", "FAIL")
    began = course.step
    course.order(on_seed("CULL", step=course.step))
    course.until("EMBARGOED")
    assert course.step == began + 20


@pytest.mark.parametrize(
    ("kind", "stage", "gate"),
    [
        (K.DIRECTIVE_KIND_SNAPSHOT_TWIN, "GERMINATED", 0),
        (K.DIRECTIVE_KIND_BUILD, "GERMINATED", 0),
        (K.DIRECTIVE_KIND_ATTACH, "GERMINATED", 0),
        (K.DIRECTIVE_KIND_PROBE, "SHADOWING", 3),
        (K.DIRECTIVE_KIND_JUDGE, "PROBATIONARY", 4),
    ],
)
def test_a_directive_that_fails_fails_its_gate_and_the_seed_waits_for_its_cull(
    kind: int, stage: str, gate: int
) -> None:
    course = begun(faults={kind: {"succeeded": False, "failure": "out of memory"}})
    course.until(stage, "FAIL")
    assert course.gates[-1].gate - 1 == gate
    assert "directive_failed" in course.notices
    for _ in range(10):
        course.boundary()
    assert course.path[-1] == stage
    course.order(on_seed("CULL", step=course.step))
    course.until("DORMANT")


def test_a_twin_that_cannot_be_installed_is_replaced_by_a_fade() -> None:
    course = begun(gain=-0.05, faults={K.DIRECTIVE_KIND_INSTALL_TWIN: {"succeeded": False, "failure": "no twin"}})
    course.until("PROBATIONARY", "FAIL")
    course.order(on_seed("CULL", step=course.step))
    course.until("DORMANT")
    assert "directive_failed" in course.notices


def test_a_slot_with_remains_stays_closed_and_is_looked_at_again() -> None:
    course = begun(gain=-0.05, faults={K.DIRECTIVE_KIND_CHECK_RESET: {"remains": ["a hook on fc1"]}})
    course.until("PROBATIONARY", "FAIL")
    course.order(on_seed("CULL", step=course.step))
    course.until("RESETTING", "FAIL")
    assert "reset_incomplete" in course.notices
    for _ in range(20):
        course.boundary()
    assert (
        refusal_of(dispatch.apply(turn(course.state, course.step), germinate("s2", step=course.step)))
        == "SLOT_EMBARGOED"
    )
    course.executor.faults.clear()
    course.until("DORMANT")


def test_a_fold_that_fails_leaves_a_permanent_module() -> None:
    course = begun(
        gain=0.05, faults={K.DIRECTIVE_KIND_FOLD: {"succeeded": False, "failure": "RMSprop", "folded": False}}
    )
    course.until("PROBATIONARY", "PASS")
    course.order(on_seed("FOSSILIZE", step=course.step))
    course.boundary()
    seed = course.state.seeds[0].state
    assert (seed.stage, seed.is_folded) == (SeedStage.SEED_STAGE_FOSSILIZED, False)


def test_a_seed_that_was_merged_costs_nothing_any_more() -> None:
    merged = {"folded": True, "added_parameters": 0, "added_forward_macs": 0}
    course = begun(gain=0.05, faults={K.DIRECTIVE_KIND_FOLD: merged})
    course.until("PROBATIONARY", "PASS")
    assert course.state.seeds[0].state.parameters > 0
    course.order(on_seed("FOSSILIZE", step=course.step))
    course.boundary()
    seed = course.state.seeds[0].state
    assert (seed.is_folded, seed.parameters, seed.forward_macs, course.state.growth.added_parameters) == (True, 0, 0, 0)


def test_leaks_add_up_until_the_gate_looks() -> None:
    course = begun()
    course.until("BLENDING")
    course.executor.evidence = {"isolation_violations": 1}
    course.boundary()
    course.executor.evidence = {}
    course.until("BLENDING", "FAIL")
    assert "gradient leaks" in course.gates[-1].detail


def test_evidence_that_arrives_twice_counts_once() -> None:
    course = begun(gain=0.012)
    course.until("SHADOWING")
    looks = 0
    for _ in range(60):
        course.step += 10
        evidence = course.executor.evidence_at(course.step)
        for _ in range(2):
            work = turn(course.state, course.step, course.run)
            advance(work, evidence)
            course._keep(work)
        looks = course.state.growth.looks_since_fossil
    assert looks == 2
    assert course.verdicts[3:] == [(3, "PASS"), (4, "EXTEND"), (4, "FAIL")]


def test_an_unknown_seed_is_an_error_that_names_it() -> None:
    with pytest.raises(DependencyViolationError, match="s9"):
        advance(turn(step=10), request(10, observations=[observation(10, "s9")]))


def test_a_slot_signal_changes_what_the_next_seed_costs() -> None:
    state = fresh_state()
    for width in (14, 22):
        signal = SlotSignal(slot_id=SLOT, width=width, in_features=64, out_features=6)
        advance(turn(state, 10), request(10, slots=[signal]))
    assert [(s.slot_id, s.width) for s in state.slots] == [(SLOT, 22)]


def test_the_end_of_a_run_ends_what_is_not_permanent() -> None:
    course = begun()
    course.until("SHADOWING")
    work = turn(course.state, course.step)
    terminate(work, "finished")
    assert course.state.seeds[0].state.stage == SeedStage.SEED_STAGE_TERMINATED
    assert "finished" in work.transitions[0].reason


def test_the_same_evidence_gives_the_same_decisions() -> None:
    def lived() -> bytes:
        course = begun(gain=0.012)
        course.until("PROBATIONARY", "FAIL")
        return course.state.SerializeToString(deterministic=True)

    assert lived() == lived()


def test_a_seed_whose_host_ran_out_of_memory_fails_the_gate_of_its_stage() -> None:
    course = begun(gain=0.05)
    course.until("BLENDING")
    told = "memory ran out in step 7: CUDA out of memory"
    course.executor.reports.append(
        report(
            SeedDirective(directive_id="s1:undone", seed_id="s1", kind=K.DIRECTIVE_KIND_INSTALL_TWIN), 7, failure=told
        )
    )
    course.executor.living.clear()
    record = course.until("BLENDING", "FAIL")
    assert (record.gates[-1].gate, record.gates[-1].detail) == (SeedGate.SEED_GATE_G2_STABILITY, told)
