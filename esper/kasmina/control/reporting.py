"""Telemetry of the service: counters since its start, and packets made of what a turn left behind.

Nothing here decides anything, and nothing waits: packets go to a sink that takes them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from esper.core.clock import Clock
from esper.core.enums import short_name
from esper.core.flood import WINDOW_S, Flood
from esper.core.security.ledger import LedgerStats
from esper.core.telemetry import AttributeValue, EventSpec, Pace, build_packet, event, metric
from esper.core.tracing import current_trace
from esper.kasmina import metrics
from esper.kasmina.control.artifacts.access import ArtifactAccess
from esper.kasmina.control.stages.lifecycle import ALIVE, stage_name
from esper.kasmina.control.stages.turn import Notice, Turn
from esper.leyline import (
    AdaptationCommand,
    CommandOutcome,
    Event,
    GateEvidence,
    GateVerdict,
    KasminaRunState,
    Metric,
    RejectionReason,
    SeedGate,
    SeedObservation,
    StageTransition,
    TelemetryPacket,
)

Sink = Callable[[TelemetryPacket], None]
SOURCE = "kasmina"


@dataclass(slots=True)
class Counters:
    """Counts since the service started."""

    accepted: int = 0
    rejected: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    last_latency_ms: float | None = None
    evictions: int = 0


class Reporting:
    """Turns what happened into packets."""

    def __init__(self, clock: Clock, sink: Sink, artifacts: ArtifactAccess) -> None:
        self.counters = Counters()
        self._clock = clock
        self._sink = sink
        self._artifacts = artifacts
        self._pace = Pace(clock)
        self._rejections = Flood[int](clock, partial(self._tell_held, metrics.COMMAND_REJECTED))
        self._refusals = Flood[int](clock, partial(self._tell_held, metrics.COMMAND_REFUSED))

    def tell(self, notice: Notice, run_id: str | None = None, step: int | None = None) -> None:
        """One event on its own."""
        self._send([], [self._event(notice)], run_id, step)

    def tell_turn(self, turn: Turn, stats: LedgerStats, outcomes: Iterable[CommandOutcome] = ()) -> None:
        """Everything that a stored turn did, with the figures of now; a turn that did nothing is told now and then."""
        delivered = list(outcomes)
        events = [
            *(self._event(notice) for notice in turn.notices),
            *(self._transition(transition) for transition in turn.transitions),
            *(self._gate(evidence) for evidence in turn.gates),
            *(self._transition(transition) for outcome in delivered for transition in outcome.transitions),
            *self._evictions(stats),
        ]
        if not self._pace.admits(has_news=bool(events)):
            return
        figures = [*seed_metrics(turn.state), *self._service_metrics(stats)]
        self._send(figures, events, turn.state.training_run_id, turn.state.step)

    def reject(self, reason: int, detail: str, command_id: str) -> None:
        """Count and tell a request that was not believed."""
        self.counters.rejected[reason] += 1
        if not self._rejections.admits(reason):
            return
        attributes = {"reason": RejectionReason.Name(reason), "command_id": command_id}
        notice = Notice(metrics.COMMAND_REJECTED, detail, attributes)
        self._send(self._refused_figures(), [self._event(notice)], None, None)

    def refuse(self, command: AdaptationCommand, outcome: CommandOutcome) -> None:
        """Count and tell a believed command that doesn't act."""
        self.counters.refused[outcome.rejection] += 1
        if not self._refusals.admits(outcome.rejection):
            return
        attributes: dict[str, AttributeValue] = {
            "reason": RejectionReason.Name(outcome.rejection),
            "command_id": command.command_id,
            "issued_by": command.issued_by,
        }
        self.tell(Notice(metrics.COMMAND_REFUSED, outcome.detail, attributes), command.training_run_id, command.step)

    def _tell_held(self, spec: EventSpec, reason: int, count: int) -> None:
        """Of a flood of refusals, those that were not told singly."""
        name = RejectionReason.Name(reason)
        notice = Notice(spec, f"{count} more within {WINDOW_S:g} s", {"reason": name, "count": count})
        self._send(self._refused_figures(), [self._event(notice)], None, None)

    def _refused_figures(self) -> list[Metric]:
        counts = (metrics.REJECTIONS, self.counters.rejected), (metrics.REFUSALS, self.counters.refused)
        return [
            metric(spec, count, reason=RejectionReason.Name(reason))
            for spec, reasons in counts
            for reason, count in reasons.items()
        ]

    def _send(self, figures: list[Metric], events: list[Event], run_id: str | None, step: int | None) -> None:
        self._sink(
            build_packet(
                SOURCE, self._clock, metrics=figures, events=events, run=run_id, step=step, trace=current_trace()
            )
        )

    def _event(self, notice: Notice) -> Event:
        return event(notice.spec, self._clock, notice.message, **notice.attributes)

    def _transition(self, transition: StageTransition) -> Event:
        return event(
            metrics.SEED_STAGE_CHANGED,
            self._clock,
            transition.reason,
            seed_id=transition.seed_id,
            from_stage=stage_name(transition.from_stage),
            to_stage=stage_name(transition.to_stage),
            command_id=transition.command_id,
        )

    def _gate(self, evidence: GateEvidence) -> Event:
        gate = short_name(SeedGate, evidence.gate)
        if evidence.verdict == GateVerdict.GATE_VERDICT_FAIL:
            return event(metrics.GATE_FAILURE, self._clock, evidence.detail, seed_id=evidence.seed_id, gate=gate)
        verdict = short_name(GateVerdict, evidence.verdict)
        return event(
            metrics.GATE_EVENT, self._clock, evidence.detail, seed_id=evidence.seed_id, gate=gate, verdict=verdict
        )

    def _evictions(self, stats: LedgerStats) -> list[Event]:
        removed = stats.evictions - self.counters.evictions
        self.counters.evictions = stats.evictions
        if removed <= 0:
            return []
        message = f"{removed} live nonces were given up"
        return [event(metrics.NONCE_LEDGER_TRUNCATED, self._clock, message, removed=removed, size=stats.size)]

    def _service_metrics(self, stats: LedgerStats) -> list[Metric]:
        counters, figures, breaker = self.counters, self._artifacts.figures, self._artifacts.breaker
        cache = self._artifacts.cache
        measured = [
            metric(metrics.ACCEPTED, counters.accepted),
            *self._refused_figures(),
            metric(metrics.NONCES, stats.size),
            metric(metrics.NONCE_EVICTIONS, stats.evictions),
            metric(metrics.NONCE_TTL, stats.ttl_s),
            *(metric(metrics.PREFETCH_REQUESTS, n, status=status) for status, n in figures.requests.items()),
            metric(metrics.PREFETCH_INFLIGHT, figures.inflight),
            metric(metrics.CACHE_LOCK_WAIT, cache.lock_wait_ms),
            metric(metrics.CACHE_SIZE, len(cache)),
            metric(metrics.CACHE_EVICTIONS, cache.evictions),
            metric(metrics.CACHE_HIT_RATE, cache.hit_rate),
            *(
                metric(metrics.WORKER_CALLS, n, fate=fate)
                for fate, n in self._artifacts.worker.counts.by_fate().items()
            ),
            metric(metrics.BREAKER_STATE, breaker.state, breaker=breaker.name),
            metric(metrics.BREAKER_FAILURES, breaker.failures, breaker=breaker.name),
        ]
        latencies = (
            (metrics.VALIDATION_LATENCY, counters.last_latency_ms),
            (metrics.PREFETCH_LATENCY, figures.latency_ms),
            (metrics.PREFETCH_LAST_LATENCY, figures.last_latency_ms),
            (metrics.PREFETCH_VERIFY, figures.verify_ms),
            (metrics.PREFETCH_ATTACH_LATENCY, figures.attach_latency_ms),
        )
        return measured + [metric(spec, value) for spec, value in latencies if value is not None]


def seed_metrics(state: KasminaRunState) -> list[Metric]:
    """Figures of the living seeds, and of those that just ended."""
    alive = [record for record in state.seeds if record.state.stage in ALIVE]
    measured = [
        metric(metrics.SEEDS_ACTIVE, len(alive)),
        metric(metrics.ISOLATION_VIOLATIONS, sum(record.observation.isolation_violations for record in alive)),
    ]
    for record in state.seeds:
        if record in alive or record.state.stage_step == state.step:
            seed_id = record.state.seed_id
            violations = record.observation.isolation_violations
            measured += [
                metric(metrics.SEED_STAGE, record.state.stage, seed_id=seed_id),
                metric(metrics.SEED_ALPHA, record.state.alpha, seed_id=seed_id),
                metric(metrics.SEED_HEALTH, record.state.health, seed_id=seed_id),
                metric(metrics.SEED_ISOLATION_VIOLATIONS, violations, seed_id=seed_id),
            ]
            if record.state.HasField("interference"):
                measured.append(metric(metrics.SEED_INTERFERENCE, record.state.interference, seed_id=seed_id))
            measured += _observed_metrics(record.observation, seed_id)
    return measured


BLENDED = (
    (metrics.BLEND_ALPHA_MEAN, "alpha_mean"),
    (metrics.BLEND_ALPHA_P95, "alpha_p95"),
    (metrics.BLEND_SPARSITY, "sparsity"),
    (metrics.BLEND_CLAMPED, "clamped_fraction"),
    (metrics.BLEND_GATE_MEAN, "gate_mean"),
)


def _observed_metrics(observation: SeedObservation, seed_id: str) -> list[Metric]:
    """Figures that not every observation has."""
    blend = observation.blend
    found = [metric(spec, getattr(blend, name), seed_id=seed_id) for spec, name in BLENDED if blend.HasField(name)]
    if observation.HasField("incubation_steps"):
        found.append(metric(metrics.SEED_INCUBATION, observation.incubation_steps, seed_id=seed_id))
    if observation.HasField("distillation_loss"):
        found.append(metric(metrics.SEED_DISTILLATION, observation.distillation_loss, seed_id=seed_id))
    return found
