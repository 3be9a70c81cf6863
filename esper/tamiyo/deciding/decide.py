"""One evaluation: observe, propose, weigh the risk, number what is left.

`decide` is a function: the same state and packet give the same verdict, bit for bit. It reads no clock, no file and
no measured time (unless the run asked for latency rules), and leaves the state that it is given untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from esper.core.enums import short_name
from esper.leyline import (
    CoverageSummary,
    DecisionMetadata,
    DecisionReason,
    Observation,
    PolicyMetadata,
    RiskEffect,
    RiskFinding,
    RiskReason,
    SeedStage,
    SystemStatePacket,
    TamiyoRunState,
)
from esper.tamiyo import features
from esper.tamiyo.context import LIVE_STAGES, RunContext, command_number
from esper.tamiyo.deciding import mode, risk
from esper.tamiyo.deciding.commands import Issue, issue, settle
from esper.tamiyo.growing.obstacles import stacks_tried
from esper.tamiyo.growing.selection import Selection, evidence_of
from esper.tamiyo.learned.observation import observation_of
from esper.tamiyo.policy import GERMINATE, Order, Policy, Proposal, View
from esper.tamiyo.signals import Signals, as_messages, observe

Select = Callable[[TamiyoRunState, SystemStatePacket, RunContext], Selection]
_HOLDING = (RiskEffect.RISK_EFFECT_HOLD, RiskEffect.RISK_EFFECT_CONSERVATIVE)
_CHANGED = (
    SeedStage.SEED_STAGE_BLENDING,
    SeedStage.SEED_STAGE_FOSSILIZED,
    SeedStage.SEED_STAGE_CULLED,
    SeedStage.SEED_STAGE_EMBARGOED,
)
_REPLACED = (SeedStage.SEED_STAGE_CULLED, SeedStage.SEED_STAGE_EMBARGOED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What follows from one packet, with everything that its telemetry and its reports need."""

    state: TamiyoRunState
    metadata: DecisionMetadata
    issues: tuple[Issue, ...]
    replayed_ids: tuple[str, ...]
    unmatched_ids: tuple[str, ...]
    """Commands of ours that Kasmina replays for this packet although it wasn't decided again."""
    expired_ids: tuple[str, ...]
    findings: tuple[RiskFinding, ...]
    mode_change: mode.ModeChange | None
    selection: Selection | None
    coverage: CoverageSummary
    signals: Signals
    observation: Observation | None
    """What a germination that stands was chosen from; None without one."""
    view: View
    """What the policy saw, for another policy that decides beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A packet taken in: the state after it, not yet decided on."""

    state: TamiyoRunState
    readings: tuple[features.Reading, ...]
    coverage: CoverageSummary
    signals: Signals
    expired_ids: tuple[str, ...]


def decide(
    context: RunContext,
    state: TamiyoRunState,
    packet: SystemStatePacket,
    *,
    policy: Policy,
    select: Select,
    survey: Select | None = None,
    was_late: bool = False,
) -> Verdict:
    """Answer a packet that follows on the state, and perhaps on one that could not be answered in time.

    `select` looks at the slots as the heuristic does, `survey` at everything that could be grown (default: the same).
    """
    seen = _take_in(context, state, packet)
    after, look = seen.state, survey or select
    # A policy sees the state before its decision is written into it, also one that looks at it later.
    before = TamiyoRunState()
    before.CopyFrom(after)
    view = View(
        context=context,
        packet=packet,
        state=before,
        signals=seen.signals,
        select=lambda: select(before, packet, context),
        survey=lambda: look(before, packet, context),
    )
    proposal = policy.propose(view)
    findings = risk.assess(replace(_risk_view(state, view, proposal, seen.coverage.average), was_late=was_late))
    orders, reasons, detail = _restrain(proposal, findings, state)
    mode_change = mode.advance(after, findings, packet.step, context.config)
    metadata = DecisionMetadata(
        policy=_policy_metadata(policy, proposal, context, seen),
        risk=risk.as_metadata(findings),
        coverage=seen.coverage,
        selection=proposal.selection.as_message() if proposal.selection else None,
        reasons=reasons,
        conservative=after.conservative,
        detail=detail,
    )
    observation = _observation(view, proposal, orders)
    issues = tuple(issue(order, _of_order(order, metadata), after, packet, context) for order in orders)
    _remember(after, packet, context, proposal, orders)
    return Verdict(
        state=after,
        metadata=metadata,
        issues=issues,
        replayed_ids=tuple(command.command_id for command in context.replayed_at(packet.step)),
        unmatched_ids=_unmatched(issues, packet.step, context),
        expired_ids=seen.expired_ids,
        findings=findings,
        mode_change=mode_change,
        selection=proposal.selection,
        coverage=seen.coverage,
        signals=seen.signals,
        observation=observation,
        view=view,
    )


def _observation(view: View, proposal: Proposal, orders: tuple[Order, ...]) -> Observation | None:
    """What a germination was chosen from, before the state takes it in."""
    selection = proposal.selection
    is_germinating = any(order.operation == GERMINATE for order in orders)
    if not is_germinating or selection is None or selection.chosen is None:
        return None
    admissible = [(place, item) for place, item in enumerate(selection.candidates) if not item.excluded]
    chosen = next(i for i, (_, item) in enumerate(admissible) if item == selection.chosen)
    given = proposal.probabilities
    probabilities = [given[place] if given else float(i == chosen) for i, (place, _) in enumerate(admissible)]
    candidates = [item for _, item in admissible]
    return observation_of(view, candidates, probabilities, chosen, proposal.wait_probability)


def _take_in(context: RunContext, state: TamiyoRunState, packet: SystemStatePacket) -> Observed:
    after = TamiyoRunState()
    after.CopyFrom(state)
    readings = features.read(packet, context)
    expired_ids = settle(after, packet, context)
    _take_topology(after, packet)
    return Observed(
        state=after,
        readings=readings,
        coverage=features.coverage(readings, with_measured=context.spec.latency_rules),
        signals=observe(after, packet, context),
        expired_ids=expired_ids,
    )


def _policy_metadata(policy: Policy, proposal: Proposal, context: RunContext, seen: Observed) -> PolicyMetadata:
    return PolicyMetadata(
        policy_id=policy.policy_id,
        version=seen.state.policy_version,
        action=proposal.action,
        log_probability=proposal.log_probability,
        value=proposal.value,
        observation_digest=features.digest(seen.readings, with_measured=context.spec.latency_rules),
        signals=as_messages(seen.signals, context),
    )


def _risk_view(before: TamiyoRunState, view: View, proposal: Proposal, coverage: float) -> risk.RiskView:
    context = view.context
    blueprint = next((order.blueprint for order in proposal.orders if order.blueprint is not None), None)
    return risk.RiskView(
        packet=view.packet,
        limits=context.config.risk,
        previous_loss=before.smoothed_loss if before.HasField("smoothed_loss") else None,
        loss_floor=view.signals.saturation_floor,
        previous_violations=before.isolation_violations,
        previous_artifact_timeouts=before.artifact_timeouts,
        is_jumping=stacks_tried(view, LIVE_STAGES) > 0,
        coverage=coverage,
        blueprint=blueprint,
        is_named=blueprint is not None and blueprint.blueprint_id in context.trigger.blueprint_ids,
        severity=proposal.severity,
        latency_rules=context.spec.latency_rules,
        is_conservative=before.conservative,
    )


def _restrain(
    proposal: Proposal, findings: tuple[RiskFinding, ...], before: TamiyoRunState
) -> tuple[tuple[Order, ...], list[DecisionReason], str]:
    """Drop a germination that a rule holds back, and say which; verdicts on living seeds are never held back."""
    kept = tuple(order for order in proposal.orders if order.operation != GERMINATE)
    holding = [finding for finding in findings if finding.effect in _HOLDING]
    if len(kept) == len(proposal.orders) or not holding:
        return proposal.orders, list(proposal.reasons), proposal.detail
    mode_holds = any(found.reason == RiskReason.RISK_REASON_CONSERVATIVE_MODE for found in holding)
    cause = DecisionReason.DECISION_REASON_CONSERVATIVE if mode_holds else DecisionReason.DECISION_REASON_RISK
    return kept, [cause, *proposal.reasons], "; ".join(_held_in_words(finding, before) for finding in holding)


def _held_in_words(finding: RiskFinding, before: TamiyoRunState) -> str:
    if finding.reason == RiskReason.RISK_REASON_CONSERVATIVE_MODE:
        if not before.conservative:
            return "the run or the plane is in conservative mode"
        why = short_name(RiskReason, before.conservative_reason).replace("_", " ").lower()
        return f"conservative mode since step {before.conservative_since_step}: {why}"
    words = short_name(RiskReason, finding.reason).replace("_", " ").lower()
    measured = f" {finding.measured:.4g}" if finding.HasField("measured") else ""
    return words + measured + (f", limit {finding.threshold:.4g}" if finding.HasField("threshold") else "")


def _of_order(order: Order, metadata: DecisionMetadata) -> DecisionMetadata:
    """The decision as one of its commands carries it."""
    own = DecisionMetadata()
    own.CopyFrom(metadata)
    own.policy.action = order.action
    del own.reasons[:]
    own.reasons.extend(dict.fromkeys([order.reason, *metadata.reasons]))
    return own


def _unmatched(issues: tuple[Issue, ...], step: int, context: RunContext) -> tuple[str, ...]:
    decided = {item.command.command_id for item in issues}
    replayed = (command.command_id for command in context.replayed_at(step))
    return tuple(i for i in replayed if command_number(i) is not None and i not in decided)


def _take_topology(state: TamiyoRunState, packet: SystemStatePacket) -> None:
    """Note the last change of the network; where a twin was installed, the losses before it are another network's."""
    changes = [seed.stage_step for seed in packet.seeds if seed.stage in _CHANGED]
    state.last_change_step = max([state.last_change_step, *changes])
    replaced_step = max((seed.stage_step for seed in packet.seeds if seed.stage in _REPLACED), default=-1)
    is_replacing = any(seed.stage == SeedStage.SEED_STAGE_CULLED for seed in packet.seeds)
    kept = [] if is_replacing else [point for point in state.window if point.step >= replaced_step]
    del state.window[:]
    state.window.extend(kept)
    del state.evidence[:]
    state.evidence.extend(evidence_of(packet))


def _remember(
    state: TamiyoRunState,
    packet: SystemStatePacket,
    context: RunContext,
    proposal: Proposal,
    orders: tuple[Order, ...],
) -> None:
    state.packet_index, state.step = packet.packet_index, packet.step
    state.isolation_violations = packet.isolation_violations
    _remember_cost(state, packet)
    state.artifact_timeouts = packet.growth.artifact_timeouts
    is_germinating = any(order.operation == GERMINATE for order in orders)
    if is_germinating and proposal.selection is not None and proposal.selection.chosen is not None:
        slots = {candidate.slot.slot_id for candidate in proposal.selection.candidates}
        state.next_slot = (proposal.selection.chosen.position + 1) % len(slots)


def _remember_cost(state: TamiyoRunState, packet: SystemStatePacket) -> None:
    """What training costs, by which the cost of a judgement is reckoned; a step of the bare host shows its rate."""
    metrics = packet.metrics
    state.training_macs = metrics.training_macs
    if not packet.seeds and packet.step and metrics.forward_macs:
        state.step_macs_ratio = metrics.training_macs / packet.step / metrics.forward_macs
