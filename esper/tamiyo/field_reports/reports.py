"""Field reports: what was decided, what was observed since, and what came of it.

A report opens with its command and gets its outcome only from what was observed: kept, culled, refused, or the run's
end. Functions here make new reports from old ones; `report_log` keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from esper.core.enums import short_name
from esper.leyline import (
    AdaptationCommand,
    DirectiveKind,
    FieldReport,
    FieldReportDelta,
    FieldReportOutcome,
    GateEvidence,
    Observation,
    PolicySignalId,
    RejectionReason,
    SeedOperationKind,
    SeedStage,
    SeedState,
    StageTransition,
    SubmitOutcomeRequest,
)
from esper.tamiyo.signals import value_of

KEPT, CULLED, ENDED = "fossilized", "culled", "run ended"
FATES = {
    SeedStage.SEED_STAGE_FOSSILIZED: KEPT,
    SeedStage.SEED_STAGE_CULLED: CULLED,
    SeedStage.SEED_STAGE_EMBARGOED: CULLED,
    SeedStage.SEED_STAGE_RESETTING: CULLED,
    SeedStage.SEED_STAGE_DORMANT: CULLED,
    SeedStage.SEED_STAGE_TERMINATED: ENDED,
}
SUCCESS = FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS
REGRESSION = FieldReportOutcome.FIELD_REPORT_OUTCOME_REGRESSION
NEUTRAL = FieldReportOutcome.FIELD_REPORT_OUTCOME_NEUTRAL
ABORTED = FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED
# What a seed's fate makes of each action; a pair that isn't here didn't do what was decided.
OUTCOMES = {
    ("germinate", KEPT): SUCCESS,
    ("germinate", CULLED): REGRESSION,
    ("fossilize", KEPT): SUCCESS,
    ("fossilize", CULLED): REGRESSION,
    # A cull puts the twin in place: the host is as if nothing had been grown.
    ("cull", CULLED): NEUTRAL,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """When something was observed, and what the run looked like then."""

    time: Timestamp
    step: int
    smoothed_loss: float | None = None
    hook_latency_ms: float | None = None
    is_conservative: bool = False
    training_macs: int | None = None
    step_macs_ratio: float | None = None
    """Training multiply-accumulates of a step for each forward one of a sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What one SubmitOutcome says, by command and by seed."""

    refused: Mapping[str, str] = field(default_factory=dict)
    fates: Mapping[str, str] = field(default_factory=dict)
    gates: Mapping[str, list[GateEvidence]] = field(default_factory=dict)
    remarks: Mapping[str, list[str]] = field(default_factory=dict)
    seeds: Mapping[str, SeedState] = field(default_factory=dict)


def report_id(command_id: str) -> str:
    return f"fr-{command_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a report begins with beside its command."""

    time: Timestamp
    latency_ms: float
    observation: Observation | None = None
    training_macs: int | None = None
    """Training multiply-accumulates by the packet that was decided on."""
    forward_macs: int | None = None
    """Forward ones of the host for one sample, then."""
    run_macs: int | None = None
    """Training ones of a whole run of that host."""


def opened(command: AdaptationCommand, origin: Origin) -> FieldReport:
    """The report of a command that was just decided."""
    seed = command.seed
    germinates = seed.operation == SeedOperationKind.SEED_OPERATION_KIND_GERMINATE
    return FieldReport(
        report_id=report_id(command.command_id),
        command_id=command.command_id,
        training_run_id=command.training_run_id,
        generation=command.generation,
        seed_id=seed.seed_id or None,
        slot_id=seed.slot_id or None,
        blueprint_id=seed.blueprint_id or None,
        opened_at=origin.time,
        opened_step=command.step,
        decision=command.metadata,
        delta=FieldReportDelta(
            risk_score=command.metadata.risk.score,
            steps=0,
            tamiyo_latency_ms=origin.latency_ms,
            run_macs=origin.run_macs if germinates else None,
        ),
        observation=origin.observation if germinates else None,
        opened_training_macs=origin.training_macs if germinates else None,
        opened_forward_macs=origin.forward_macs if germinates else None,
    )


def is_open(report: FieldReport) -> bool:
    return report.outcome == FieldReportOutcome.FIELD_REPORT_OUTCOME_UNSPECIFIED


def digested(request: SubmitOutcomeRequest) -> News:
    """Sort what the trainer submits by what it is about."""
    gates: dict[str, list[GateEvidence]] = {}
    for evidence in request.gates:
        gates.setdefault(evidence.seed_id, []).append(evidence)
    return News(
        refused={
            outcome.command_id: ": ".join(filter(None, (_reason(outcome.rejection), outcome.detail)))
            for outcome in request.outcomes
            if not outcome.accepted
        },
        fates=_fates(request),
        gates=gates,
        remarks=_remarks(request),
        seeds={seed.seed_id: seed for seed in request.seeds},
    )


def absorbed(report: FieldReport, news: News, moment: Moment) -> FieldReport | None:
    """The open report with the news in it, closed if they decide it; None if they say nothing about it."""
    if report.command_id in news.refused:
        return closed(report, ABORTED, moment, note=f"refused: {news.refused[report.command_id]}")
    seed_id = report.seed_id
    known = {evidence.SerializeToString(deterministic=True) for evidence in report.gates}
    gates = [g for g in news.gates.get(seed_id, ()) if g.SerializeToString(deterministic=True) not in known]
    remarks = [text for text in news.remarks.get(seed_id, ()) if text not in report.follow_ups]
    fate = news.fates.get(seed_id)
    if not gates and not remarks and fate is None:
        return None
    changed = _copy(report)
    changed.gates.extend(gates)
    changed.follow_ups.extend(remarks)
    if fate is None:
        return changed
    outcome = OUTCOMES.get((report.decision.policy.action, fate), ABORTED)
    return closed(changed, outcome, moment, seed=news.seeds.get(seed_id), follow_up=fate)


def closed(
    report: FieldReport,
    outcome: FieldReportOutcome,
    moment: Moment,
    *,
    seed: SeedState | None = None,
    follow_up: str | None = None,
    note: str | None = None,
) -> FieldReport:
    """The report with its outcome and with what changed since it was opened."""
    done = _copy(report)
    done.outcome = outcome
    done.closed_at.CopyFrom(moment.time)
    done.closed_step = max(moment.step, report.opened_step)
    done.follow_ups.extend(filter(None, (follow_up, "conservative mode" if moment.is_conservative else None)))
    if note is not None:
        done.notes = note
    done.delta.steps = done.closed_step - report.opened_step
    loss = value_of(report.decision.policy.signals, PolicySignalId.POLICY_SIGNAL_ID_SMOOTHED_LOSS)
    if loss is not None and moment.smoothed_loss is not None:
        done.delta.loss_delta = moment.smoothed_loss - loss
    if moment.hook_latency_ms is not None:
        done.delta.hook_latency_ms = moment.hook_latency_ms
    if seed is not None:
        _add_seed(done, seed, is_kept=follow_up == KEPT)
        _add_judgement(done, seed, moment, is_kept=follow_up == KEPT)
    return done


def _add_judgement(report: FieldReport, seed: SeedState, moment: Moment, *, is_kept: bool) -> None:
    """What the judgement found and cost, for whoever learns from it."""
    delta = report.delta
    looks = [gate.twin for gate in report.gates if gate.HasField("twin")]
    if looks:
        delta.twin_score = looks[-1].mean_twin_score
    # A seed that was culled leaves nothing behind, judged or not.
    if seed.HasField("gain") or not is_kept:
        delta.effect = seed.gain if is_kept else 0.0
    if seed.HasField("gain") and report.HasField("opened_forward_macs"):
        delta.gain_at_equal_macs = seed.gain - _gain_of_macs(report, seed)
    cost = _judgement_macs(report, moment)
    if cost is not None:
        delta.judgement_macs = cost


def _gain_of_macs(report: FieldReport, seed: SeedState) -> float:
    """What the host would have gained for the seed's work, had its score gone on falling as its loss did then."""
    slope = value_of(report.decision.policy.signals, PolicySignalId.POLICY_SIGNAL_ID_LOSS_SLOPE) or 0.0
    share = seed.forward_macs / report.opened_forward_macs if report.opened_forward_macs else 0.0
    return max(0.0, slope) * report.delta.twin_score * report.delta.steps * share / 100.0


def _judgement_macs(report: FieldReport, moment: Moment) -> int | None:
    """What was spent since the decision beyond the work of the network that stayed."""
    if moment.training_macs is None or moment.step_macs_ratio is None or not report.HasField("opened_training_macs"):
        return None
    spent = moment.training_macs - report.opened_training_macs
    stayed = report.opened_forward_macs + report.delta.forward_macs_delta
    return max(0, round(spent - report.delta.steps * moment.step_macs_ratio * stayed))


def _add_seed(report: FieldReport, seed: SeedState, *, is_kept: bool) -> None:
    """What the seed cost the host, nothing if it is gone, and what the judge measured."""
    delta = report.delta
    if seed.HasField("parameters"):
        delta.parameter_delta = seed.parameters if is_kept else 0
    if seed.HasField("forward_macs"):
        delta.forward_macs_delta = seed.forward_macs if is_kept else 0
    if seed.HasField("gain"):
        delta.gain = seed.gain
    if seed.HasField("gain_standard_error"):
        delta.gain_standard_error = seed.gain_standard_error


def _fates(request: SubmitOutcomeRequest) -> dict[str, str]:
    """Fates by seed: from stage moves, and from the stages themselves in case a move was never reported."""
    moves: list[StageTransition] = [
        *(move for outcome in request.outcomes for move in outcome.transitions),
        *request.transitions,
    ]
    seen: Iterable[tuple[str, SeedStage]] = [
        *((move.seed_id, move.to_stage) for move in moves),
        *((seed.seed_id, seed.stage) for seed in request.seeds),
    ]
    return {seed_id: FATES[stage] for seed_id, stage in seen if stage in FATES}


def _remarks(request: SubmitOutcomeRequest) -> dict[str, list[str]]:
    remarks: dict[str, list[str]] = {}
    for report in request.reports:
        kind = short_name(DirectiveKind, report.kind).lower()
        if not report.succeeded:
            remarks.setdefault(report.seed_id, []).append(f"{kind} failed: {report.failure}")
        elif report.folded:
            remarks.setdefault(report.seed_id, []).append("folded")
    return remarks


def _reason(rejection: RejectionReason) -> str:
    return short_name(RejectionReason, rejection).lower()


def _copy(report: FieldReport) -> FieldReport:
    copy = FieldReport()
    copy.CopyFrom(report)
    return copy
