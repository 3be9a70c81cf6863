"""What is told about decisions: coverage and signals as metrics, findings and commands as events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from esper.core.clock import Clock
from esper.core.enums import short_name
from esper.core.flood import Flood
from esper.core.telemetry import AttributeValue, EventSpec, build_packet, event, metric
from esper.leyline import (
    CoverageSummary,
    DecisionReason,
    Event,
    Metric,
    RiskEffect,
    RiskFinding,
    RiskReason,
    TraceContext,
)
from esper.rpc.reporting.telemetry import Reporter
from esper.tamiyo import metrics
from esper.tamiyo.deciding.commands import Issue
from esper.tamiyo.deciding.decide import Verdict

SOURCE = "tamiyo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One decision as telemetry sees it."""

    run_id: str
    packet_index: int
    verdict: Verdict
    previous_loss: float | None
    generation: int
    known: frozenset[str]
    """Conditions of the packet before: what lasts is told once."""
    latency_ms: float
    trace: TraceContext | None


class Teller:
    """Counts, and sends packets: at once when something happened, else every so many decisions."""

    def __init__(self, reporter: Reporter, clock: Clock, *, every_packets: int) -> None:
        self._reporter = reporter
        self._clock = clock
        self._every_packets = every_packets
        self.decisions = 0
        self.commands = 0
        self.rejected = 0
        self._refusals = Flood[tuple[str, str]](clock, self._tell_held)

    def decision(self, told: Told, gauges: Callable[[], Iterable[Metric]]) -> None:
        """A decision was made."""
        verdict = told.verdict
        self.decisions += 1
        self.commands += sum(1 for issue in verdict.issues if not issue.is_replayed)
        events = list(_events(told, self._clock))
        if not events and told.packet_index % self._every_packets:
            return
        self._reporter.send(
            build_packet(
                SOURCE,
                self._clock,
                metrics=[*_metrics(told), *self._counts(), *gauges()],
                events=events,
                run=told.run_id,
                step=verdict.state.step,
                trace=told.trace,
            )
        )

    def refusal(self, method: str, reason: str, run_id: str | None) -> None:
        """A request was refused for its signature or token."""
        self.rejected += 1
        if self._refusals.admits((method, reason)):
            self.event(metrics.COMMAND_REJECTED, run_id, method=method, reason=reason)

    def _tell_held(self, kind: tuple[str, str], count: int) -> None:
        """Of a flood of refusals, those that were not told singly."""
        self.event(metrics.COMMAND_REJECTED, None, method=kind[0], reason=kind[1], count=count)

    def event(self, spec: EventSpec, run_id: str | None, **attributes: AttributeValue) -> None:
        """Something else happened."""
        events = [event(spec, self._clock, None, **attributes)]
        packet = build_packet(SOURCE, self._clock, metrics=self._counts(), events=events, run=run_id)
        self._reporter.send(packet)

    def _counts(self) -> list[Metric]:
        return [
            metric(metrics.DECISIONS, self.decisions),
            metric(metrics.COMMANDS, self.commands),
            metric(metrics.COMMAND_REJECTED_TOTAL, self.rejected),
        ]


def conditions(verdict: Verdict) -> frozenset[str]:
    """What holds now and is told when it begins: risk reasons, and groups of inputs that are absent."""
    return frozenset([*(reason_name(finding.reason) for finding in verdict.findings), *_absent(verdict.coverage)])


def _metrics(told: Told) -> Iterator[Metric]:
    verdict = told.verdict
    yield from _coverage_metrics(verdict.coverage)
    loss, slope = verdict.signals.smoothed_loss, verdict.signals.slope
    if loss is not None:
        yield metric(metrics.SMOOTHED_LOSS, loss)
        if told.previous_loss is not None:
            yield metric(metrics.LOSS_DELTA, loss - told.previous_loss)
    if slope is not None:
        yield metric(metrics.LOSS_SLOPE, slope)
    yield metric(metrics.CONSERVATIVE_MODE, float(verdict.state.conservative))
    yield metric(metrics.INFERENCE_LATENCY, told.latency_ms)
    yield metric(metrics.GNN_INFERENCE_LATENCY, told.latency_ms)
    yield metric(metrics.RISK_SCORE, verdict.metadata.risk.score)
    if verdict.metadata.policy.HasField("value"):
        yield metric(metrics.VALUE_ESTIMATE, verdict.metadata.policy.value)
    chosen = verdict.selection.chosen if verdict.selection else None
    if chosen is not None and chosen.blueprint is not None:
        risk = chosen.blueprint.safety.risk_score
        yield metric(metrics.BLUEPRINT_RISK, risk, blueprint_id=chosen.blueprint.blueprint_id)
        yield metric(metrics.SELECTION_SCORE, chosen.score, slot_id=chosen.slot.slot_id)


def _coverage_metrics(coverage: CoverageSummary) -> Iterator[Metric]:
    shares = {group.group: group.present / group.expected for group in coverage.groups}
    yield metric(metrics.FEATURE_COVERAGE, coverage.average)
    yield metric(metrics.COVERAGE_AVG, sum(shares.values()) / max(len(shares), 1))
    yield metric(metrics.COVERAGE_MIN, min(shares.values(), default=0.0))
    yield metric(metrics.COVERAGE_MAX, max(shares.values(), default=0.0))
    for group, share in shares.items():
        yield metric(metrics.GROUP_FEATURE_COVERAGE[group], share)
        yield metric(metrics.COVERAGE_GROUP[group], share)


def _events(told: Told, clock: Clock) -> Iterator[Event]:
    verdict = told.verdict
    for finding in verdict.findings:
        if reason_name(finding.reason) not in told.known:
            yield _risk_event(finding, clock)
    yield from _mode_events(verdict, clock)
    yield from (_issue_event(issue, clock) for issue in verdict.issues if not issue.is_replayed)
    for command_id in verdict.expired_ids:
        yield event(metrics.COMMAND_EXPIRED, clock, command_id=command_id)
    for command_id in verdict.unmatched_ids:
        yield event(metrics.REPLAY_MISMATCH, clock, command_id=command_id)
    absent = [group for group in _absent(verdict.coverage) if group not in told.known]
    if absent:
        yield event(metrics.COVERAGE_MISSING, clock, groups=", ".join(absent))


def _absent(coverage: CoverageSummary) -> list[str]:
    return [f"{group.group} inputs" for group in coverage.groups if not group.present]


def _risk_event(finding: RiskFinding, clock: Clock) -> Event:
    spec: EventSpec = replace(metrics.RISK_EVENTS[finding.reason], level=finding.level)
    numbers = {name: getattr(finding, name) for name in ("measured", "threshold") if finding.HasField(name)}
    effect = short_name(RiskEffect, finding.effect).lower()
    return event(spec, clock, effect=effect, **numbers)


def _mode_events(verdict: Verdict, clock: Clock) -> Iterator[Event]:
    change = verdict.mode_change
    if change is None:
        return
    reason = reason_name(change.reason)
    if change.entered:
        yield event(metrics.CONSERVATIVE_ENTERED, clock, reason=reason)
    else:
        yield event(
            metrics.CONSERVATIVE_EXITED,
            clock,
            reason="stabilised",
            previous_reason=reason,
            duration_steps=change.steps,
        )


def _issue_event(issue: Issue, clock: Clock) -> Event:
    command = issue.command
    reason = DecisionReason.Name(command.metadata.reasons[0]).removeprefix("DECISION_REASON_").lower()
    return event(
        metrics.COMMAND_ISSUED,
        clock,
        command_id=command.command_id,
        action=command.metadata.policy.action,
        seed_id=command.seed.seed_id,
        slot_id=command.seed.slot_id,
        reason=reason,
    )


def reason_name(reason: RiskReason) -> str:
    """A risk reason as events name it."""
    return short_name(RiskReason, reason).lower()
