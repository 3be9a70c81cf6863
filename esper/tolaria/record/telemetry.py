"""Telemetry of the trainer: what observers are told, as packets for Weatherlight.

Figures go once a second, however short the steps; whatever happened goes at once and takes them along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from esper.core.clock import Clock
from esper.core.enums import short_name
from esper.core.telemetry import AttributeValue, EventSpec, MetricSpec, Pace, build_packet, event, metric
from esper.leyline import DirectiveKind, DirectiveReport, Event, Metric, TraceContext
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.reporting.telemetry import Reporter
from esper.tolaria import metrics as m
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.record.network import RESHAPING
from esper.tolaria.record.observer import (
    Boundary,
    CheckpointWritten,
    EpochDone,
    Notice,
    Observer,
    RollbackFigures,
    RunStarted,
    StepDone,
)
from esper.tolaria.record.packet_result import Calls
from esper.tolaria.record.seed_telemetry import aggregation_metrics, health_events
from esper.tolaria.record.terminal.screen import living

SOURCE = "tolaria"
NOTICE_EVENTS = {
    "INFO": m.NOTICE_INFO,
    "WARNING": m.NOTICE_WARNING,
    "ERROR": m.NOTICE_ERROR,
    "CRITICAL": m.NOTICE_CRITICAL,
}
NAMED = {
    spec.name: spec
    for spec in (
        m.EMERGENCY_HALT,
        m.EMERGENCY_ESCALATED,
        m.ROLLBACK_MISSED,
        m.ROLLBACK_FAILED,
        m.TAMIYO_TIMEOUT,
        m.KASMINA_TIMEOUT,
        m.BREAKER_OPENED,
        m.BREAKER_CLOSED,
        m.SEED_CONFLICT_HIGH,
        m.SEED_SHARE_JUMP,
        m.EPOCH_HOOK_LATENCY_HIGH,
        m.EPOCH_BUDGET_EXCEEDED,
        m.TRACE_WRITTEN,
        m.TRACE_FAILED,
        m.COMPILED,
        m.GRAPH_CAPTURED,
        m.GRAPH_FALLBACK,
    )
}
# What a notice's facts measure.
MEASURED = {
    m.COMPILED.name: {
        "graphs": m.COMPILE_GRAPHS,
        "graph_breaks": m.COMPILE_BREAKS,
        "recompilations": m.COMPILE_AGAIN,
        "fallbacks": m.COMPILE_FALLBACKS,
    }
}
REPORT_EVENTS: dict[int, tuple[EventSpec, tuple[str, ...]]] = {
    DirectiveKind.DIRECTIVE_KIND_ATTACH: (m.SEED_GRAFTED, ("max_logit_delta",)),
    DirectiveKind.DIRECTIVE_KIND_FOLD: (m.SEED_FOLDED, ("folded",)),
    DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN: (m.SEED_REMOVED, ()),
    DirectiveKind.DIRECTIVE_KIND_FADE: (m.SEED_REMOVED, ()),
    DirectiveKind.DIRECTIVE_KIND_REMOVE: (m.SEED_REMOVED, ()),
}


class TelemetryObserver(Observer):
    """Observer that sends figures now and then, and a packet for each thing out of the ordinary."""

    def __init__(self, reporter: Reporter, clock: Clock, alarm: Alarm, *, is_profiled: bool = False) -> None:
        self._reporter = reporter
        self._alarm = alarm
        self._clock = clock
        self._run = ""
        self._step_ms: list[float] = []
        self._pace = Pace(clock)
        self._timeouts = 0
        self._missed: Counter[str] = Counter()
        self._calls = Calls()
        self._refused = 0
        self._epoch: EpochDone | None = None
        self._traces: dict[str, TraceContext] = {}
        self._rollbacks = RollbackFigures()
        self._is_profiled = is_profiled
        self._notices: Counter[str] = Counter()
        self._rewired: Counter[bool] = Counter()
        self._rewiring_ms = 0.0
        self._rate, self._told_rate = 0.0, 0.0

    def on_start(self, started: RunStarted) -> None:
        self._run = started.run_id
        begun = event(m.RUN_STARTED, self._clock, generation=started.generation, total_steps=started.total_steps)
        self._send(started.step, events=[begun])

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self._step_ms.extend(done.step_ms for done in steps)
        if steps:
            self._rate = steps[-1].learning_rate

    def on_boundary(self, boundary: Boundary) -> None:
        result = boundary.result
        if result is not None:
            self._timeouts += result.is_timeout
            self._refused += result.is_invalid
            self._calls = result.calls or self._calls
            self._missed.update(result.calls.missed if result.calls else ())
        if rewired := [report.succeeded for report in boundary.collected.reports if report.kind in RESHAPING]:
            self._rewired.update(rewired)
            self._rewiring_ms = boundary.apply_ms
        trace = self._trace(boundary)
        events = [found for found in map(self._report_event, boundary.collected.reports) if found is not None]
        if not self._pace.admits(has_news=bool(events) or trace is not None):
            return
        self._send(boundary.step, metrics=self._measurements(boundary), events=events, trace=trace)
        self._step_ms, self._told_rate = [], self._rate

    def _trace(self, boundary: Boundary) -> TraceContext | None:
        """The trace of the decision whose directives were done here, else of one that was heard here."""
        heard = [
            outcome for outcome in (boundary.result.outcomes if boundary.result else ()) if outcome.HasField("trace")
        ]
        self._traces |= {directive.directive_id: o.trace for o in heard for directive in o.directives}
        done = [self._traces.pop(report.directive_id, None) for report in boundary.collected.reports]
        return next(filter(None, (*done, *(outcome.trace for outcome in heard))), None)

    def _measurements(self, boundary: Boundary) -> list[Metric]:
        packet = boundary.packet.metrics
        step_ms = sum(self._step_ms) / len(self._step_ms) if self._step_ms else 0.0
        return [
            metric(m.TRAINING_LOSS, packet.smoothed_loss),
            metric(m.TRAINING_LATENCY, step_ms),
            metric(m.HOOK_LATENCY, boundary.hook_ms + boundary.apply_ms),
            metric(m.APPLY_LATENCY, boundary.apply_ms),
            metric(m.WAIT_LATENCY, boundary.wait_ms),
            *_if_known(m.INPUT_WAIT, boundary.input_wait_ms),
            *_if_known(m.H2D_COPY, boundary.h2d_copy_ms),
            metric(m.SEEDS_ACTIVE, len(living(boundary.seeds))),
            metric(m.MODE_CONSERVATIVE, float(boundary.mode != "normal")),
            metric(m.PARAMETERS, packet.parameters),
            metric(m.TRAINING_MACS, packet.training_macs),
            metric(m.TIMEOUT_TOTAL, self._timeouts),
            *self._optimizer(),
            *self._profiler(),
            *self._line(),
            metric(m.ANSWERS_REFUSED, self._refused),
            *self._emergency(boundary.plane.level),
            *_rollback_figures(self._rollbacks),
            *_epoch_figures(self._epoch),
            *_graph_figures(boundary.graphs),
            *(metric(m.SEED_ALPHA, s.alpha, seed_id=s.seed_id, stage=s.stage) for s in living(boundary.seeds)),
        ]

    def _optimizer(self) -> list[Metric]:
        """What acts on rates and optimiser."""
        return [
            metric(m.LR_ENABLED, float(self._rate != self._told_rate)),
            metric(m.LR_CURRENT, self._rate),
            metric(m.OPT_REBUILDS, self._rewired[True]),
            metric(m.OPT_FAILURES, self._rewired[False]),
            metric(m.OPT_LATENCY, self._rewiring_ms),
        ]

    def _profiler(self) -> list[Metric]:
        return [
            metric(m.PROFILER_ENABLED, float(self._is_profiled)),
            metric(m.PROFILER_TRACES, self._notices[m.TRACE_WRITTEN.name]),
            metric(m.PROFILER_FAILURES, self._notices[m.TRACE_FAILED.name]),
        ]

    def _line(self) -> list[Metric]:
        """How the services are to talk to."""
        calls = self._calls
        return [
            *(metric(spec, self._missed[service]) for service, spec in m.TIMEOUTS.items()),
            *(metric(m.LAST_CALL[service], last_ms) for service, last_ms in calls.last_ms.items()),
            *(metric(m.BREAKER_STATE, state, service=service) for service, state in calls.breakers.items()),
            *(metric(m.WORKER_CALLS, count, fate=fate) for fate, count in calls.worker.items()),
        ]

    def _emergency(self, level: int, *, is_halted: bool = False) -> list[Metric]:
        return [
            metric(m.EMERGENCY_LEVEL, level),
            metric(m.EMERGENCY_HALTED, float(is_halted)),
            metric(m.EMERGENCY_SENT, self._alarm.sent),
            metric(m.EMERGENCY_FAILURES, self._alarm.failures),
            metric(m.EMERGENCY_QUEUED, self._alarm.queued),
            metric(m.EMERGENCY_LATENCY, self._alarm.last_latency_ms),
        ]

    def _report_event(self, report: DirectiveReport) -> Event | None:
        if not report.succeeded:
            kind = short_name(DirectiveKind, report.kind)
            return event(m.DIRECTIVE_FAILED, self._clock, report.failure, seed_id=report.seed_id, directive=kind)
        if report.kind not in REPORT_EVENTS:
            return None
        spec, names = REPORT_EVENTS[report.kind]
        facts: dict[str, AttributeValue] = {name: getattr(report, name) for name in names if report.HasField(name)}
        return event(spec, self._clock, None, seed_id=report.seed_id, **facts)

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._notices[notice.name] += 1
            spec = NAMED.get(notice.name) or NOTICE_EVENTS[notice.level]
            measured = _rollback_figures(self._rollbacks) if notice.name.startswith("tolaria.rollback") else []
            measured += [
                metric(spec, float(notice.facts[fact])) for fact, spec in MEASURED.get(notice.name, {}).items()
            ]
            told = event(spec, self._clock, notice.message, name=notice.name, **notice.facts)
            self._send(notice.step, metrics=measured, events=[told])

    def on_rollback(self, figures: RollbackFigures) -> None:
        self._rollbacks = figures

    def on_epoch(self, done: EpochDone) -> None:
        self._epoch = done
        if done.aggregation is not None and done.aggregation.seeds:
            health = health_events(done.aggregation, self._clock)
            self._send(done.step, metrics=aggregation_metrics(done.aggregation), events=health)

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        size = metric(m.CHECKPOINT_BYTES, written.size_bytes)
        self._send(written.step, metrics=[size, metric(m.CHECKPOINT_LATENCY, written.duration_ms)])

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        facts = {"weights_digest": summary["weights_digest"], "kept": summary["growth"]["kept"]}
        finished = event(m.RUN_FINISHED, self._clock, **facts)
        stood = self._emergency(summary["emergency_level"], is_halted=summary["halted_by"] is not None)
        self._send(summary["steps"], metrics=[*_epoch_figures(self._epoch), *stood], events=[finished])

    def _send(
        self,
        step: int,
        *,
        metrics: Sequence[Metric] = (),
        events: Sequence[Event] = (),
        trace: TraceContext | None = None,
    ) -> None:
        packet = build_packet(
            SOURCE, self._clock, metrics=metrics, events=events, run=self._run, step=step, trace=trace
        )
        self._reporter.send(packet)


def _graph_figures(counts: GraphCounts | None) -> list[Metric]:
    """Of a run with CUDA graphs."""
    if counts is None:
        return []
    return [
        metric(m.GRAPH_CAPTURES, counts.captures),
        metric(m.GRAPH_CAPTURE_MS, counts.capture_ms[-1] if counts.capture_ms else 0.0),
        metric(m.GRAPH_REPLAYS, counts.replays),
        metric(m.GRAPH_POOL, counts.pool_bytes),
        *(metric(m.GRAPH_EAGER, count, reason=reason) for reason, count in counts.eager.items()),
        *(metric(m.GRAPH_FALLBACKS, count, reason=reason) for reason, count in counts.fallbacks.items()),
    ]


def _if_known(spec: MetricSpec, value: float | None) -> list[Metric]:
    return [] if value is None else [metric(spec, value)]


def _rollback_figures(figures: RollbackFigures) -> list[Metric]:
    return [
        metric(m.ROLLBACK_SIZE, figures.fast_size_bytes),
        metric(m.ROLLBACK_SNAPSHOTS, figures.snapshots),
        metric(m.ROLLBACK_SNAPSHOT_LATENCY, figures.snapshot_ms),
        metric(m.ROLLBACK_HITS, figures.fast_hits),
        metric(m.ROLLBACK_MISSES, figures.fast_misses),
        metric(m.ROLLBACK_FAILURES, figures.failures),
        metric(m.ROLLBACK_LATE, figures.deadline_exceeded),
        metric(m.ROLLBACK_LATENCY, figures.restore_latency_ms),
    ]


def _epoch_figures(done: EpochDone | None) -> list[Metric]:
    """Those of the last epoch."""
    if done is None:
        return []
    accuracy = done.validation_accuracy
    told = [] if accuracy is None else [metric(m.TRAINING_ACCURACY, accuracy)]
    told += [] if done.aggregation is None else aggregation_metrics(done.aggregation)
    return [metric(m.EPOCHS_TOTAL, done.epoch), metric(m.EPOCH_LATENCY, 1e3 * done.duration_s), *told]
