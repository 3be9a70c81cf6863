"""events.jsonl: what is written, and that a cut line doesn't hurt its reader."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from esper.core.errors import DependencyViolationError, UnwritableStorage
from esper.kasmina.executor import Collected, MemoryNote
from esper.leyline import (
    CommandOutcome,
    CoverageGroup,
    CoverageSummary,
    Decision,
    DecisionMetadata,
    DecisionReason,
    DirectiveKind,
    GateEvidence,
    GateVerdict,
    PairedScore,
    PolicyMetadata,
    RejectionReason,
    SeedDirective,
    SeedGate,
    SeedObservation,
    SeedStage,
    SelectionCandidate,
    SelectionContext,
    StackEvaluation,
    StackTest,
    StageTransition,
    SystemStatePacket,
    TraceContext,
    TrainingMetrics,
    TwinTest,
)
from esper.tolaria.record.course.events import STACK, EventLog, incident_kind
from esper.tolaria.record.course.reading import INCIDENTS, read_events
from esper.tolaria.record.growth_reason import Reason
from esper.tolaria.record.network import Layer, Network
from esper.tolaria.record.observer import Boundary, Notice, StepDone, TwinStep
from esper.tolaria.record.packet_result import PacketResult
from tests.unit.tolaria.observed import epoch_done, started


def boundary(result: PacketResult | None, step: int = 10) -> Boundary:
    return Boundary(
        step=step,
        epoch=0,
        packet=SystemStatePacket(step=step, metrics=TrainingMetrics(smoothed_loss=0.5, training_macs=700)),
        collected=Collected(),
        result=result,
        seeds=(),
        mode="NORMAL",
        wait_ms=1.0,
        apply_ms=2.0,
        hook_ms=3.0,
    )


def step_done(step: int) -> StepDone:
    return StepDone(
        step=step,
        epoch=0,
        loss=float(step),
        accuracy=0.5,
        gradient_norm=None,
        learning_rate=0.1,
        conflict_rate=None,
        step_ms=2.0,
    )


def test_a_boundary_holds_the_means_of_its_steps(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for step in (1, 2, 3):
            log.on_steps([step_done(step)])
        log.on_boundary(boundary(None))
    (event,) = read_events(tmp_path)
    assert event["kind"] == "boundary"
    assert event["loss"] == 2.0
    assert event["training_macs"] == 700
    assert event["timings"] == {"step_ms": 2.0, "packet_ms": 1.0, "directives_ms": 2 / 3, "wait_ms": 1 / 3}


def test_steps_that_a_rollback_undoes_are_in_no_mean(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_steps([step_done(4)._replace(loss=1e9)])
        log.on_events([Notice(step=3, name="tolaria.rollback", level="ERROR", message="back to step 3")])
        log.on_steps([step_done(4)._replace(loss=0.5)])
        log.on_boundary(boundary(None))
    (line,) = (event for event in read_events(tmp_path) if event["kind"] == "boundary")
    assert line["loss"] == 0.5


def test_the_twins_losses_stand_apart_from_the_boundarys_by_their_own_steps(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_steps([step_done(1), step_done(2), step_done(3)])
        log.on_twin_steps([TwinStep(seed_id="s1", step=step, loss=100.0 * step) for step in (2, 3)])
        log.on_boundary(boundary(None, 3))
        # A twin that had fallen behind, and whose last loss is none.
        late = [TwinStep(seed_id="s1", step=step, loss=loss) for step, loss in ((4, 1.0), (5, math.inf), (9, 3.0))]
        log.on_twin_steps(late)
        log.on_boundary(boundary(None, 20))
    events = read_events(tmp_path)
    assert [event["loss"] for event in events if event["kind"] == "boundary"] == [2.0]
    told = [(e["seed_id"], e["from_step"], e["step"], e["losses"]) for e in events if e["kind"] == "twin"]
    assert told == [("s1", 2, 3, [200.0, 300.0]), ("s1", 4, 5, [1.0, None]), ("s1", 9, 9, [3.0])]
    assert [event["loss"] for event in events if event["kind"] == "twin"] == [250.0, 1.0, 3.0]


def test_a_rollback_undoes_what_was_not_told_yet_of_the_twin(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_twin_steps([TwinStep(seed_id="s1", step=4, loss=1e9)])
        log.on_events([Notice(step=3, name="tolaria.rollback", level="ERROR", message="back to step 3")])
        log.on_boundary(boundary(None))
    assert [event["kind"] for event in read_events(tmp_path)] == ["rollback"]


def test_a_stacks_evaluation_is_told_with_both_scores_and_its_error(tmp_path: Path) -> None:
    paired = PairedScore(mean=0.25, variance=4.0, samples=100)
    made = StackEvaluation(step=9, twin=paired, mean_twin_score=2.0, clipped_share=0.125, part=3)
    seen = Collected(observations=(SeedObservation(seed_id="s1", step=10, evaluations=[made]),))
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(replace(boundary(None), collected=seen))
        log.on_boundary(replace(boundary(None), collected=Collected()))
    (event,) = read_events(tmp_path)
    assert event.pop("time")
    assert event == {
        "kind": "evaluation",
        "step": 9,
        "seed_id": "s1",
        "gain": 0.25,
        "standard_error": 0.2,
        "twin_score": 2.0,
        "grown_score": 1.75,
        "samples": 100,
        "clipped_share": 0.125,
        "part": 3,
    }


def test_whatever_happens_is_written_at_once_and_after_the_boundaries_before_it(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for step in (10, 20, 30):
            log.on_steps([step_done(step)])
            log.on_boundary(boundary(None, step))
        log.on_events([Notice(step=30, name="tolaria.rollback", level="ERROR", message="back")])
        assert [(event["kind"], event["step"]) for event in read_events(tmp_path)] == [
            ("boundary", 10),
            ("boundary", 20),
            ("boundary", 30),
            ("rollback", 30),
        ]


def test_boundaries_that_waited_are_written_at_the_end(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for step in (10, 20, 30):
            log.on_steps([step_done(step)])
            log.on_boundary(boundary(None, step))
    assert [event["step"] for event in read_events(tmp_path)] == [10, 20, 30]


def test_commands_are_counted_and_refusals_keep_their_reason(tmp_path: Path) -> None:
    decision = Decision(
        command_ids=["c1"],
        metadata=DecisionMetadata(
            policy=PolicyMetadata(action="germinate"), reasons=[DecisionReason.DECISION_REASON_PLATEAU]
        ),
    )
    refused = CommandOutcome(
        command_id="c2",
        accepted=False,
        rejection=RejectionReason.REJECTION_REASON_NONCE_REPLAYED,
        detail="used before",
    )
    result = PacketResult(
        packet_index=0, decision=decision, outcomes=(CommandOutcome(command_id="c1", accepted=True), refused)
    )
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(result))
    commands = [event for event in read_events(tmp_path) if event["kind"] == "command"]
    assert commands[0]["reasons"] == ["PLATEAU"]
    assert commands[1]["rejection"] == "NONCE_REPLAYED"


def test_why_a_run_waits_is_written_at_each_change_only(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for step, name in ((10, "WARMING_UP"), (20, "WARMING_UP"), (30, "SATURATED"), (40, "WARMING_UP")):
            why = Reason(name=name, detail=f"at {step}", since_step=step)
            log.on_boundary(replace(boundary(PacketResult(packet_index=0), step), reason=why))
    told = [event for event in read_events(tmp_path) if event["kind"] == "growth"]
    assert [(event["step"], event["reason"], event["detail"]) for event in told] == [
        (10, "WARMING_UP", "at 10"),
        (30, "SATURATED", "at 30"),
        (40, "WARMING_UP", "at 40"),
    ]


def test_an_operators_order_is_written_with_its_issuer_and_rationale(tmp_path: Path) -> None:
    pause = SeedDirective(directive_id="d", kind=DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH, rationale="new data")
    order = CommandOutcome(command_id="op-1", accepted=True, issued_by="operator:ada", directives=[pause])
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(PacketResult(packet_index=0, outcomes=(order,))))
    (command,) = (event for event in read_events(tmp_path) if event["kind"] == "command")
    assert (command["issued_by"], command["rationale"]) == ("operator:ada", "new data")
    assert command["directives"] == ["PAUSE_GROWTH"]


def test_gates_and_transitions_keep_their_evidence(tmp_path: Path) -> None:
    gate = GateEvidence(
        seed_id="s1",
        gate=SeedGate.SEED_GATE_G4_SYSTEM_IMPACT,
        verdict=GateVerdict.GATE_VERDICT_PASS,
        step=300,
        measured=4.5,
        threshold=2.33,
        standard_error=0.01,
        detail="kept",
        twin=TwinTest(look=1, gain=0.1, margin=0.01, z=4.5, z_threshold=2.33, variance=0.04, samples=400, tau=0.0),
    )
    move = StageTransition(
        seed_id="s1",
        from_stage=SeedStage.SEED_STAGE_GERMINATED,
        to_stage=SeedStage.SEED_STAGE_BLENDING,
        step=10,
        reason="grafted",
        gate=SeedGate.SEED_GATE_G0_SANITY,
    )
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(PacketResult(packet_index=0, gates=(gate,), transitions=(move,))))
    transition, judged = read_events(tmp_path)
    assert (transition["to_stage"], transition["gate"]) == ("BLENDING", "G0_SANITY")
    assert (judged["verdict"], judged["gain"], judged["look"]) == ("PASS", 0.1, 1)
    assert judged["standard_error"] == pytest.approx(0.01)


def test_a_stacks_look_is_written_with_all_its_figures(tmp_path: Path) -> None:
    test = StackTest(look=1, evaluations=8, graft_step=10, margin=0.002, z_threshold=2.3, wander_error=0.0)
    gate = GateEvidence(seed_id="s1", gate=SeedGate.SEED_GATE_G4_SYSTEM_IMPACT, stack=test)
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(PacketResult(packet_index=0, gates=(gate,))))
    (judged,) = read_events(tmp_path)
    assert {field.name: judged[field.name] for field, _ in test.ListFields()} == {
        field.name: value for field, value in test.ListFields()
    }
    assert set(STACK) == {field.name for field in StackTest.DESCRIPTOR.fields}


def test_a_decision_is_written_with_what_was_known_and_what_it_was_chosen_from(tmp_path: Path) -> None:
    groups = [
        CoverageGroup(group="loss", present=3, expected=3),
        CoverageGroup(group="hardware", present=0, expected=2),
    ]
    candidates = [
        SelectionCandidate(slot_id="a", blueprint_id="x", score=9.0, parameters=1, forward_macs=2, excluded="embargo"),
        SelectionCandidate(slot_id="b", blueprint_id="x", score=1.0, parameters=3, forward_macs=4),
        SelectionCandidate(slot_id="c", blueprint_id="x", score=2.0, parameters=5, forward_macs=6),
    ]
    decided = Decision(
        command_ids=["c1"],
        metadata=DecisionMetadata(
            reasons=[DecisionReason.DECISION_REASON_PLATEAU],
            detail="flat",
            conservative=True,
            coverage=CoverageSummary(average=0.6, provenance="packet:v1", groups=groups),
            selection=SelectionContext(slot_id="c", blueprint_id="x", candidates=candidates),
        ),
    )
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(PacketResult(packet_index=0, decision=decided)))
    (told,) = (event for event in read_events(tmp_path) if event["kind"] == "decision")
    assert (told["commands"], told["reasons"], told["conservative"]) == (["c1"], ["PLATEAU"], True)
    assert told["coverage"] == {"share": 0.6, "missing": ["hardware"], "inputs": "packet:v1"}
    assert (told["selection"]["slot_id"], told["selection"]["candidates"]) == ("c", 3)
    assert [each["slot_id"] for each in told["selection"]["best"]] == ["c", "b", "a"]
    assert told["selection"]["best"][2]["excluded"] == "embargo"


@pytest.mark.parametrize(("samples", "variance"), [(0, 0.0), (0, 0.1), (10, -1.0), (10, float("nan"))])
def test_a_judgement_without_usable_scores_is_written_all_the_same(
    tmp_path: Path, samples: int, variance: float
) -> None:
    twin = TwinTest(look=1, variance=variance, samples=samples, tau=0.0)
    gate = GateEvidence(seed_id="s1", verdict=GateVerdict.GATE_VERDICT_FAIL, step=300, detail="no scores", twin=twin)
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(PacketResult(packet_index=0, gates=(gate,))))
    (judged,) = read_events(tmp_path)
    assert judged["detail"] == "no scores"
    assert math.isnan(judged["standard_error"])


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"kind": "run", "step": 0}) + '\n{"kind": "bound')
    assert [event["kind"] for event in read_events(tmp_path)] == ["run"]


def test_reading_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DependencyViolationError, match="directory of a run"):
        read_events(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("tolaria.tamiyo_timeout", "timeout"), ("conservative_mode_entered", "mode"), ("service_lost", "service")),
        ("tolaria.data_doubt", "doubt"),
        ("tolaria.started_from", "started"),
        ("tolaria.emergency.halt", "emergency"),
        ("tolaria.breaker_opened", "breaker"),
    ],
)
def test_incidents_have_a_kind_that_the_report_shows(tmp_path: Path, name: str, kind: str) -> None:
    assert incident_kind(name) == kind
    assert kind in INCIDENTS
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_events([Notice(step=1, name=name, level="WARNING", message="why")])
    assert read_events(tmp_path)[0]["kind"] == kind


def test_each_epoch_holds_the_reason_with_its_numbers_of_then(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_epoch(epoch_done(1, 18, reason=Reason(name="SATURATED", detail="99 % are right", since_step=10)))
        log.on_epoch(epoch_done(2, 36))
    first, second = read_events(tmp_path)
    assert first["growth"] == {"reason": "SATURATED", "detail": "99 % are right", "since_step": 10}
    assert "growth" not in second


def test_a_reason_is_told_again_where_another_course_begins(tmp_path: Path) -> None:
    late = Reason(name="TOO_LATE", detail="0 are left", since_step=10)
    with EventLog(tmp_path / "events.jsonl") as log:
        for reason in (late, None, replace(late, detail="90 are left", since_step=30)):
            log.on_boundary(replace(boundary(PacketResult(packet_index=0)), reason=reason))
        log.on_events([Notice(step=20, name="tolaria.rollback", level="WARNING", message="back")])
        log.on_boundary(replace(boundary(PacketResult(packet_index=0)), reason=replace(late, since_step=30)))
    told = [event for event in read_events(tmp_path) if event["kind"] == "growth"]
    assert [(event["detail"], event["since_step"]) for event in told] == [
        ("0 are left", 10),
        ("90 are left", 30),
        ("0 are left", 30),
    ]


def test_a_file_that_cant_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught, EventLog(path) as log:
        log.write("run", step=0)
    assert caught.value.filename == str(path)


def test_how_a_twin_makes_its_steps_is_an_event_with_its_bytes(tmp_path: Path) -> None:
    figures = {"predicted_bytes": 9, "free_bytes": 7}
    note = MemoryNote(seed_id="s1", step=10, mode="bursts", why="both don't fit", figures=figures)
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(replace(boundary(None), collected=Collected(memory=(note,))))
    (told,) = [event for event in read_events(tmp_path) if event["kind"] == "memory"]
    assert {name: told[name] for name in ("step", "seed_id", "mode", "why", *figures)} == {
        "step": 10,
        "seed_id": "s1",
        "mode": "bursts",
        "why": "both don't fit",
        **figures,
    }


def test_a_run_tells_what_it_was_started_with_and_its_network_at_each_change(tmp_path: Path) -> None:
    layer = Layer(path="fc1", kind="Linear", width=14, parameters=910)
    network = Network(step=30, parameters=1070, layers=(layer,), slots=(), refused=("blocks: shared",))
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_start(started(facts={"model": "mlp", "command": "tolaria-train --hidden 6,6"}))
        log.on_network(network)
    begun, told = read_events(tmp_path)
    assert (begun["kind"], begun["model"], begun["command"]) == ("run", "mlp", "tolaria-train --hidden 6,6")
    assert (told["kind"], told["step"], told["parameters"]) == ("network", 30, 1070)
    assert told["layers"] == [{"path": "fc1", "kind": "Linear", "width": 14, "parameters": 910}]
    assert told["refused"] == ["blocks: shared"]


def test_a_boundary_tells_its_work_by_use(tmp_path: Path) -> None:
    spent = {"main": 500, "twin": 150, "side": 50, "undone": 0}
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_steps([step_done(1)])
        log.on_boundary(replace(boundary(None), macs=spent))
    assert read_events(tmp_path)[0]["macs"] == spent


@pytest.mark.parametrize(
    ("traceparent", "found"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-01", "a" * 32),
        (f"00-{'a' * 32}-{'b' * 16}-00", None),  # no exporter has it
        ("nonsense", None),
        (f"00-{'a' * 31}/-{'b' * 16}-01", None),
    ],
)
def test_a_command_tells_its_trace_where_one_is_kept(tmp_path: Path, traceparent: str, found: str | None) -> None:
    outcome = CommandOutcome(command_id="c1", accepted=True, trace=TraceContext(traceparent=traceparent))
    with EventLog(tmp_path / "events.jsonl") as log:
        log.on_boundary(boundary(PacketResult(packet_index=0, outcomes=(outcome,))))
    assert read_events(tmp_path)[-1].get("trace_id") == found


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_run_whose_directory_was_removed_or_replaced_ends_at_its_next_event(
    tmp_path: Path, *, is_replaced: bool
) -> None:
    path = tmp_path / "run" / "events.jsonl"
    log = EventLog(path)
    log.write("note", step=1)
    shutil.rmtree(path.parent)
    if is_replaced:
        path.parent.mkdir()
        path.write_text("")
    for last in (partial(log.write, "note", step=2), partial(log.__exit__, None, None, None)):
        with pytest.raises(UnwritableStorage, match=r"events.jsonl was removed or replaced under the run: put it back"):
            last()
    assert not is_replaced or path.read_text() == ""
