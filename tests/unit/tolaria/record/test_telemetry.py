"""The trainer's telemetry: which packets follow from what observers are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.core.clock import ManualClock
from esper.core.messages.validation import violations
from esper.core.security.keys import Keyring
from esper.core.telemetry import attribute_value
from esper.kasmina.executor import Collected
from esper.leyline import (
    CommandOutcome,
    DirectiveKind,
    DirectiveReport,
    Event,
    MessagePriority,
    Metric,
    SeedDirective,
    TelemetryLevel,
    TelemetryPacket,
    TraceContext,
)
from esper.rpc.reporting.alarm import Alarm
from esper.tolaria.metrics import EVENTS, METRICS
from esper.tolaria.record.figures.gradients import CONFLICT, EPOCH, HOOK, JUMP, SeedTold
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.record.observer import CheckpointWritten, Notice, RollbackFigures
from esper.tolaria.record.packet_result import Calls, PacketResult
from esper.tolaria.record.telemetry import TelemetryObserver
from tests.unit.tolaria.observed import boundary, epoch_done, seed_view, started, step_done
from tests.unit.tolaria.record.figures.test_gradients import aggregation, gradient

SUMMARY = {"steps": 1000, "weights_digest": "abc", "growth": {"kept": 2}, "emergency_level": 0, "halted_by": None}
KEYRING = Keyring.from_secret("test-secret-0123456789-abcdefghijklm")

SILENT = Alarm(None, KEYRING, ManualClock(), "tolaria", Path("/nowhere"))


class Sent:
    """A reporter that keeps what it is given, on a clock that stands still."""

    def __init__(self, *, is_profiled: bool = False) -> None:
        self.packets: list[TelemetryPacket] = []
        self.clock = ManualClock()
        self.observer = TelemetryObserver(self, self.clock, SILENT, is_profiled=is_profiled)

    def send(self, packet: TelemetryPacket) -> None:
        assert violations(packet) == []
        self.packets.append(packet)

    @property
    def last(self) -> TelemetryPacket:
        return self.packets[-1]

    def cross(self, step: int, **fields: Any) -> None:
        """A boundary whose figures are due."""
        self.clock.advance(1.0)
        self.observer.on_boundary(boundary(step, **fields))


@pytest.fixture
def sent() -> Sent:
    sent = Sent()
    sent.observer.on_start(started())
    return sent


def values(packet: TelemetryPacket) -> dict[str, float]:
    return {found.name: found.value for found in packet.metrics}


def attributes(found: Metric | Event) -> dict[str, Any]:
    return {attribute.key: attribute_value(attribute) for attribute in found.attributes}


def report(kind: int, **fields: Any) -> DirectiveReport:
    told: dict[str, Any] = {"directive_id": "d1", "seed_id": "s1", "kind": kind, "step": 10, "succeeded": True}
    return DirectiveReport(**told | fields)


def outcome(command_id: str, *directive_ids: str, trace: str | None = None) -> CommandOutcome:
    directives = [SeedDirective(directive_id=directive_id) for directive_id in directive_ids]
    context = None if trace is None else TraceContext(traceparent=trace)
    return CommandOutcome(command_id=command_id, accepted=True, directives=directives, trace=context)


def heard(*outcomes: CommandOutcome, **fields: Any) -> PacketResult:
    return PacketResult(packet_index=1, outcomes=outcomes, **fields)


def test_a_run_is_announced_with_its_generation_and_length(sent: Sent) -> None:
    assert (sent.last.training_run_id, sent.last.step, sent.last.source) == ("r", 0, "tolaria")
    assert sent.last.events[0].name == "tolaria.run_started"
    assert attributes(sent.last.events[0]) == {"generation": 1, "total_steps": 1000}


def test_figures_are_those_of_the_boundary_and_of_the_steps_since_the_last_ones(sent: Sent) -> None:
    sent.cross(10)
    for step, step_ms in ((11, 2.0), (12, 4.0)):
        sent.observer.on_steps([step_done(step, step_ms=step_ms)])
    seeds = [seed_view(alpha=0.5), seed_view("s0", stage="FOSSILIZED", alpha=1.0)]
    sent.cross(20, seeds=seeds, mode="conservative")
    found = values(sent.last)
    assert found["tolaria.training.loss"] == 0.25
    assert found["tolaria.training.latency_ms"] == 3.0
    assert (found["tolaria.wait.latency_ms"], found["tolaria.apply.latency_ms"]) == (1.0, 2.0)
    assert (found["tolaria.model.parameters"], found["tolaria.training.macs"]) == (1234.0, 1e6)
    assert (found["tolaria.seeds.active"], found["tolaria.mode.conservative"]) == (1.0, 1.0)
    alphas = [metric for metric in sent.last.metrics if metric.name == "tolaria.seed.alpha"]
    assert [(metric.value, attributes(metric)) for metric in alphas] == [(0.5, {"seed_id": "s1", "stage": "BLENDING"})]


def test_figures_of_rollbacks_go_with_the_others_and_at_once_where_one_fails(sent: Sent) -> None:
    told = RollbackFigures(
        snapshots=3,
        fast_size_bytes=2048,
        snapshot_ms=0.5,
        fast_hits=1,
        fast_misses=2,
        failures=4,
        deadline_exceeded=5,
        restore_latency_ms=7.5,
    )
    expected = {
        "tolaria.rollback.snapshots_total": 3.0,
        "tolaria.rollback.fast_size_bytes": 2048.0,
        "tolaria.rollback.snapshot_latency_ms": 0.5,
        "tolaria.rollback.fast_hits_total": 1.0,
        "tolaria.rollback.fast_misses_total": 2.0,
        "tolaria.rollback.failures_total": 4.0,
        "tolaria.rollback.deadline_exceeded_total": 5.0,
        "tolaria.rollback.restore_latency_ms": 7.5,
    }
    sent.cross(10)
    assert {values(sent.last)[name] for name in expected} == {0.0}, "a counter begins at 0"
    sent.observer.on_rollback(told)
    sent.cross(20)
    assert values(sent.last).items() >= expected.items()
    for name in ("tolaria.rollback.deadline_exceeded", "tolaria.rollback.restore_failed"):
        sent.observer.on_events([Notice(step=21, name=name, level="CRITICAL", message="late")])
        assert values(sent.last) == expected
        assert [event.name for event in sent.last.events] == [name]
        assert sent.last.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL


def test_an_epochs_gradients_go_at_once_with_the_health_of_each_seed_and_again_with_the_figures(sent: Sent) -> None:
    seed = SeedTold(gradient=gradient(), stage="BLENDING", share_delta=0.1)
    count = len(sent.packets)
    sent.observer.on_epoch(epoch_done(1, 100, aggregation=aggregation(seed)))
    assert len(sent.packets) == count + 1
    (health,) = sent.last.events
    assert (health.name, health.level) == ("seed_health", TelemetryLevel.TELEMETRY_LEVEL_INFO)
    whose = {"seed_id": "s1", "stage": "BLENDING"}
    blended = {"alpha": 0.75, "alpha_p95": 1.0, "sparsity": 0.0, "clamped_fraction": 0.25}
    assert attributes(health) == {**whose, "share": 0.25, "conflicts": 3.0, "weight": 0.5, **blended}
    told = {(found.name, tuple(attributes(found).items())): found.value for found in sent.last.metrics}
    of_seed = tuple(whose.items())
    prefix = "tolaria.grad_agg"
    expected = {
        (f"{prefix}.microbatches_total", ()): 100.0,
        (f"{prefix}.pcgrad_applied", ()): 1.0,
        (f"{prefix}.conflicts", ()): 4.0,
        (f"{prefix}.conflict_ratio", ()): 0.4,
        (f"{prefix}.weights_mean", ()): 0.5,
        (f"{prefix}.teacher_share", ()): 0.8,
        ("tolaria.epoch_hook.latency_ms", ()): 1.0,
        (f"{prefix}.seed.weight", of_seed): 0.5,
        (f"{prefix}.seed.norm", of_seed): 2.0,
        (f"{prefix}.seed.share", of_seed): 0.25,
        (f"{prefix}.seed.share_delta", of_seed): 0.1,
        (f"{prefix}.seed.alpha", of_seed): 0.75,
        (f"{prefix}.seed.conflicts", of_seed): 3.0,
        (f"{prefix}.seed.conflict_ratio", of_seed): 0.3,
        (f"{prefix}.seed.params", of_seed): 10.0,
        (f"{prefix}.seed.mask_fraction", of_seed): 0.1,
        (f"{prefix}.seed.teacher_share", of_seed): 0.2,
        (f"{prefix}.seed.layer_norm", (("layer", "fc1.weight"), *of_seed)): 1.5,
        (f"{prefix}.seed.layer_norm", (("layer", "s1.write.weight"), *of_seed)): 0.5,
    }
    assert told == pytest.approx(expected)
    declared = {spec.name for spec in METRICS if spec.name.startswith((prefix, "tolaria.epoch_hook"))}
    assert declared == {name for name, _ in told}
    sent.cross(200)
    assert values(sent.last)[f"{prefix}.conflict_ratio"] == 0.4


def test_an_epoch_without_seeds_and_surgery_tells_what_there_is(sent: Sent) -> None:
    count = len(sent.packets)
    none = aggregation(is_surgical=False, conflicts=None, conflict_ratio=None)
    sent.observer.on_epoch(epoch_done(1, 100, aggregation=none))
    assert len(sent.packets) == count
    sent.cross(110)
    told = {name for name in values(sent.last) if name.startswith("tolaria.grad_agg")}
    assert told == {"tolaria.grad_agg.microbatches_total", "tolaria.grad_agg.pcgrad_applied"}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (CONFLICT, {"seed_id": "s1", "stage": "BLENDING", "conflict_ratio": 0.5}),
        (JUMP, {"seed_id": "s1", "stage": "BLENDING", "share": 0.5, "share_delta": 0.4}),
        (HOOK, {"latency_ms": 60.0}),
        (EPOCH, {"latency_ms": 300.0}),
    ],
)
def test_what_has_passed_a_limit_has_an_event_of_its_name_with_its_facts(
    sent: Sent, name: str, facts: dict[str, Any]
) -> None:
    sent.observer.on_events([Notice(step=9, name=name, level="WARNING", message="above", facts=facts)])
    (event,) = sent.last.events
    assert (event.name, event.level) == (name, TelemetryLevel.TELEMETRY_LEVEL_WARNING)
    assert attributes(event) == {"name": name, **facts}


def test_what_the_compiler_did_is_an_event_and_counts_at_once(sent: Sent) -> None:
    facts = {"graphs": 3, "graph_breaks": 1, "recompilations": 2, "fallbacks": 1}
    sent.observer.on_events([Notice(step=9, name="tolaria.compiled", level="INFO", message="compiled", facts=facts)])
    (event,) = sent.last.events
    assert (event.name, event.level) == ("tolaria.compiled", TelemetryLevel.TELEMETRY_LEVEL_INFO)
    assert attributes(event) == {"name": "tolaria.compiled", **facts}
    assert values(sent.last) == {
        "tolaria.compile.graphs_total": 3.0,
        "tolaria.compile.breaks_total": 1.0,
        "tolaria.compile.recompilations_total": 2.0,
        "tolaria.compile.fallback_total": 1.0,
    }


def test_what_became_of_steps_with_graphs_goes_with_boundaries_and_a_fallback_at_once(sent: Sent) -> None:
    counts = GraphCounts(replays=70, capture_ms=[4.0, 2.5], pool_bytes=2**21)
    counts.eager.update({"warm_up": 6, "given_up": 3})
    counts.fallbacks["capture_failed"] += 1
    sent.cross(80, graphs=counts)
    found = {
        (metric.name, tuple(attributes(metric).values())): metric.value
        for metric in sent.last.metrics
        if metric.name.startswith("tolaria.graph.")
    }
    assert found == {
        ("tolaria.graph.captures_total", ()): 2.0,
        ("tolaria.graph.capture_ms", ()): 2.5,
        ("tolaria.graph.replays_total", ()): 70.0,
        ("tolaria.graph.pool_bytes", ()): 2.0**21,
        ("tolaria.graph.eager_total", ("warm_up",)): 6.0,
        ("tolaria.graph.eager_total", ("given_up",)): 3.0,
        ("tolaria.graph.fallback_total", ("capture_failed",)): 1.0,
    }
    facts = {"reason": "capture_failed"}
    sent.observer.on_events([Notice(step=9, name="tolaria.graph_fallback", level="WARNING", message="a", facts=facts)])
    (event,) = sent.last.events
    assert (event.name, event.level) == ("tolaria.graph_fallback", TelemetryLevel.TELEMETRY_LEVEL_WARNING)
    assert attributes(event) == {"name": "tolaria.graph_fallback", **facts}


def test_a_rate_is_told_and_whether_anything_changes_it(sent: Sent) -> None:
    seen = []
    for step, rate in ((10, 0.1), (20, 0.2), (30, 0.2), (40, 0.1)):
        sent.observer.on_steps([step_done(step, learning_rate=rate)])
        sent.cross(step)
        found = values(sent.last)
        seen.append((found["tolaria.lr_controller.current_lr"], found["tolaria.lr_controller.enabled"]))
    assert seen == [(0.1, 1.0), (0.2, 1.0), (0.2, 0.0), (0.1, 1.0)]


def test_an_optimiser_that_is_wired_anew_is_counted_and_timed(sent: Sent) -> None:
    def told(step: int, *reports: DirectiveReport, apply_ms: float) -> list[float]:
        sent.cross(step, collected=Collected(reports=reports), apply_ms=apply_ms)
        names = ("rebuilds_total", "rebuild_failures_total", "rebuild_latency_ms")
        return [values(sent.last)[f"tolaria.opt.{name}"] for name in names]

    graft = report(DirectiveKind.DIRECTIVE_KIND_ATTACH)
    failed = report(DirectiveKind.DIRECTIVE_KIND_FOLD, succeeded=False, failure="odd")
    assert told(10, report(DirectiveKind.DIRECTIVE_KIND_BUILD), apply_ms=9.0) == [0.0, 0.0, 0.0]
    assert told(20, graft, apply_ms=4.0) == [1.0, 0.0, 4.0]
    assert told(30, apply_ms=2.0) == [1.0, 0.0, 4.0]
    assert told(40, failed, graft, apply_ms=3.0) == [2.0, 1.0, 3.0]


@pytest.mark.parametrize("is_profiled", [False, True])
def test_traces_are_counted_and_those_that_failed(is_profiled: bool) -> None:
    sent = Sent(is_profiled=is_profiled)
    for step, name in ((10, "trace_written"), (20, "export_failed"), (30, "trace_written")):
        sent.observer.on_events([Notice(step=step, name=f"tolaria.profiler.{name}", level="INFO", message="path")])
        sent.cross(step)
    found = {name: value for name, value in values(sent.last).items() if name.startswith("tolaria.profiler")}
    assert found == {
        "tolaria.profiler.enabled": float(is_profiled),
        "tolaria.profiler.traces_emitted_total": 2.0,
        "tolaria.profiler.traces_failed_total": 1.0,
    }


def test_what_a_step_waits_for_its_batch_is_told_and_its_copy_where_there_is_one(sent: Sent) -> None:
    sent.cross(10, input_wait_ms=0.5)
    found = values(sent.last)
    assert found["tolaria.training.input_wait_ms"] == 0.5
    assert "tolaria.training.h2d_copy_ms" not in found
    sent.cross(20, input_wait_ms=0.25, h2d_copy_ms=1.5)
    found = values(sent.last)
    assert (found["tolaria.training.input_wait_ms"], found["tolaria.training.h2d_copy_ms"]) == (0.25, 1.5)


def test_an_epoch_s_time_is_told_with_the_figures(sent: Sent) -> None:
    for epoch, duration_s in ((1, 0.5), (2, 0.25)):
        sent.observer.on_epoch(epoch_done(epoch, 100 * epoch, duration_s=duration_s))
        sent.cross(100 * epoch)
        assert values(sent.last)["tolaria.epoch.latency_ms"] == 1e3 * duration_s


def test_figures_go_once_a_second_however_short_the_steps(sent: Sent) -> None:
    for step in range(1, 101):
        sent.clock.advance(0.05)
        sent.observer.on_boundary(boundary(step))
    steps = [packet.step for packet in sent.packets[1:]]
    assert steps == [1, 21, 41, 61, 81]
    assert sent.last.priority == MessagePriority.MESSAGE_PRIORITY_NORMAL


def test_whatever_happens_goes_at_once(sent: Sent) -> None:
    sent.cross(10)
    count = len(sent.packets)
    done = Collected(reports=(report(DirectiveKind.DIRECTIVE_KIND_ATTACH, max_logit_delta=0.0),))
    sent.observer.on_boundary(boundary(20, collected=done))
    assert len(sent.packets) == count + 1
    assert sent.last.step == 20


def test_timeouts_are_counted_over_the_run(sent: Sent) -> None:
    for step in (10, 20):
        sent.cross(step, result=heard(failure="no answer", cause="timeout"))
    sent.cross(30, result=heard(failure="away", cause="tamiyo_unavailable"))
    assert values(sent.last)["tolaria.timeout.total"] == 2.0


def test_deadlines_calls_and_breakers_are_told_by_service(sent: Sent) -> None:
    late = Calls(missed=("tamiyo", "tamiyo"), last_ms={"tamiyo": 0.0}, breakers={"tamiyo": 2}, worker={"done": 3})
    calm = Calls(missed=("kasmina",), last_ms={"tamiyo": 1.5, "kasmina": 0.0}, breakers={"tamiyo": 1, "kasmina": 1})
    sent.cross(10, result=replace(heard(failure="late", cause="tamiyo_timeout"), calls=late))
    assert values(sent.last)["tolaria.timeout.tamiyo_last_ms"] == 0.0
    assert [metric.value for metric in sent.last.metrics if metric.name == "tolaria.worker.calls_total"] == [3.0]
    sent.cross(20, result=replace(heard(), calls=calm))
    found = values(sent.last)
    assert (found["tolaria.timeout.total"], found["tolaria.timeout.tamiyo_total"]) == (1.0, 2.0)
    assert (found["tolaria.timeout.kasmina_total"], found["tolaria.timeout.tamiyo_last_ms"]) == (1.0, 1.5)
    breakers = [metric for metric in sent.last.metrics if metric.name == "tolaria.breaker.state"]
    assert [(metric.value, attributes(metric)) for metric in breakers] == [
        (1.0, {"service": "tamiyo"}),
        (1.0, {"service": "kasmina"}),
    ]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("tolaria.emergency.halt", "CRITICAL"),
        ("tolaria.emergency.escalated", "CRITICAL"),
        ("tolaria.tamiyo_timeout", "WARNING"),
        ("tolaria.kasmina_timeout", "WARNING"),
        ("tolaria.breaker_opened", "WARNING"),
        ("tolaria.breaker_closed", "INFO"),
        ("tolaria.profiler.trace_written", "INFO"),
        ("tolaria.profiler.export_failed", "WARNING"),
    ],
)
def test_an_incident_with_a_name_of_its_own_is_an_event_of_that_name(sent: Sent, name: str, level: str) -> None:
    sent.observer.on_events([Notice(step=1, name=name, level="WARNING", message="why")])
    (event,) = sent.last.events
    assert (event.name, TelemetryLevel.Name(event.level)) == (name, f"TELEMETRY_LEVEL_{level}")


@pytest.mark.parametrize(
    ("made", "name", "facts"),
    [
        (report(DirectiveKind.DIRECTIVE_KIND_ATTACH, max_logit_delta=0.0), "seed_grafted", {"max_logit_delta": 0.0}),
        (report(DirectiveKind.DIRECTIVE_KIND_FOLD, folded=True), "seed_folded", {"folded": True}),
        (report(DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN), "seed_removed", {}),
        (report(DirectiveKind.DIRECTIVE_KIND_FADE), "seed_removed", {}),
        (report(DirectiveKind.DIRECTIVE_KIND_REMOVE), "seed_removed", {}),
        (
            report(DirectiveKind.DIRECTIVE_KIND_FOLD, succeeded=False, failure="odd"),
            "directive_failed",
            {"directive": "FOLD"},
        ),
    ],
)
def test_what_the_executor_did_to_a_seed_is_an_event(
    sent: Sent, made: DirectiveReport, name: str, facts: dict[str, Any]
) -> None:
    sent.cross(10, collected=Collected(reports=(made,)))
    assert [found.name for found in sent.last.events] == [f"tolaria.{name}"]
    assert attributes(sent.last.events[0]) == {"seed_id": "s1", **facts}
    assert sent.last.events[0].message == made.failure


def test_what_only_prepares_a_seed_is_no_event(sent: Sent) -> None:
    sent.cross(10, collected=Collected(reports=(report(DirectiveKind.DIRECTIVE_KIND_BUILD),)))
    assert list(sent.last.events) == []


def test_a_packet_belongs_to_the_decision_whose_directive_was_done(sent: Sent) -> None:
    first, second = outcome("c1", "d1", trace="00-a-1-01"), outcome("c2", "d2", trace="00-b-2-01")
    sent.cross(10, result=heard(first))
    assert sent.last.trace.traceparent == "00-a-1-01"
    made = report(DirectiveKind.DIRECTIVE_KIND_ATTACH, directive_id="d1")
    sent.cross(20, result=heard(second), collected=Collected(reports=(made,)))
    assert sent.last.trace.traceparent == "00-a-1-01"
    sent.cross(30, collected=Collected(reports=(made,)))
    assert not sent.last.HasField("trace")


def test_an_untraced_command_gives_no_trace(sent: Sent) -> None:
    sent.cross(10, result=heard(outcome("c1", "d1")))
    assert not sent.last.HasField("trace")


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_notice_keeps_its_level_and_its_words(sent: Sent, level: str) -> None:
    sent.observer.on_events([Notice(step=30, name="tolaria.rollback", level=level, message="back to step 20")])
    told = sent.last.events[0]
    assert (told.level, told.message) == (TelemetryLevel.Value(f"TELEMETRY_LEVEL_{level}"), "back to step 20")
    assert attributes(told) == {"name": "tolaria.rollback"}
    is_critical = sent.last.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL
    assert is_critical == (level == "CRITICAL")


@pytest.mark.parametrize("accuracy", [0.75, None])
def test_an_epoch_goes_with_the_next_figures_or_with_the_end(sent: Sent, accuracy: float | None) -> None:
    sent.observer.on_epoch(epoch_done(3, 300, validation_accuracy=accuracy))
    sent.cross(310)
    assert values(sent.last)["tolaria.epochs.total"] == 3.0
    assert values(sent.last).get("tolaria.training.accuracy") == accuracy
    sent.observer.on_epoch(epoch_done(4, 400))
    sent.observer.on_finish(SUMMARY)
    assert values(sent.last)["tolaria.epochs.total"] == 4.0
    assert attributes(sent.last.events[0]) == {"weights_digest": "abc", "kept": 2}


def test_a_checkpoint_is_told_with_size_and_time(sent: Sent) -> None:
    sent.observer.on_checkpoint(CheckpointWritten(path=Path("c"), step=40, size_bytes=1000, duration_ms=5.0))
    assert values(sent.last) == {"tolaria.checkpoint.size_bytes": 1000.0, "tolaria.checkpoint.latency_ms": 5.0}


def test_nothing_is_sent_that_was_not_declared(sent: Sent) -> None:
    sent.cross(10, seeds=[seed_view()], collected=Collected(reports=(report(DirectiveKind.DIRECTIVE_KIND_FOLD),)))
    sent.observer.on_epoch(epoch_done(1, 100))
    sent.observer.on_finish(SUMMARY)
    declared = {spec.name for spec in (*METRICS, *EVENTS)}
    told = {found.name for packet in sent.packets for found in (*packet.metrics, *packet.events)}
    assert told <= declared


def test_answers_that_were_refused_are_counted_over_the_run(sent: Sent) -> None:
    for step, cause in ((10, "tamiyo_invalid"), (2000, "kasmina_invalid"), (4000, "tamiyo_unavailable")):
        sent.cross(step, result=heard(failure="no answer", cause=cause))
    assert values(sent.last)["tolaria.answers.refused_total"] == 2.0
