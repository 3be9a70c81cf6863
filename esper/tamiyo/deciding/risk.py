"""Risk rules: a table of small functions, each of which looks at one thing and may speak.

Every finding is kept. NOTE is recorded, HOLD stops a germination this time, CONSERVATIVE also makes the run
conservative; what is known of a living seed is never held back. Measured times only note, unless the run asked
for latency rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from esper.leyline import (
    Blueprint,
    EmergencyLevel,
    HandlingClass,
    HazardBand,
    RiskEffect,
    RiskFinding,
    RiskMetadata,
    RiskReason,
    SystemMode,
    SystemStatePacket,
    TelemetryLevel,
)
from esper.tamiyo.config import RiskLimits

NOTE = RiskEffect.RISK_EFFECT_NOTE
HOLD = RiskEffect.RISK_EFFECT_HOLD
CONSERVATIVE = RiskEffect.RISK_EFFECT_CONSERVATIVE
INFO = TelemetryLevel.TELEMETRY_LEVEL_INFO
WARNING = TelemetryLevel.TELEMETRY_LEVEL_WARNING
CRITICAL = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL
SEVERITY = {NOTE: 0.2, HOLD: 0.6, CONSERVATIVE: 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskView:
    """What the rules see: a packet, what was known before it, and what would be grown."""

    packet: SystemStatePacket
    limits: RiskLimits
    previous_loss: float | None
    loss_floor: float
    """Loss below which a rise is measured against this floor: noise around zero is no spike."""
    previous_violations: int
    previous_artifact_timeouts: int = 0
    is_jumping: bool = False
    """Whether a stack is under judgement: it makes the loss jump at its graft, which is no fault of the run."""
    coverage: float
    blueprint: Blueprint | None = None
    is_named: bool = False
    """Whether the run names the blueprint, and so answers for it."""
    severity: float = 0.0
    latency_rules: bool = False
    is_conservative: bool = False
    was_late: bool = False
    """Whether no decision on the packet before could be made in time."""


Rule = Callable[[RiskView], Iterator[RiskFinding]]


def assess(view: RiskView) -> tuple[RiskFinding, ...]:
    """Every rule's findings, in the order of the table."""
    return tuple(finding for rule in RULES for finding in rule(view))


def as_metadata(findings: Iterable[RiskFinding]) -> RiskMetadata | None:
    """Findings as a decision carries them; None if no rule spoke."""
    listed = list(findings)
    if not listed:
        return None
    return RiskMetadata(score=max(SEVERITY[finding.effect] for finding in listed), findings=listed)


def non_finite_loss(view: RiskView) -> Iterator[RiskFinding]:
    metrics = view.packet.metrics
    broken = [sample.step for sample in view.packet.recent_steps if not math.isfinite(sample.loss)]
    if broken or not math.isfinite(metrics.loss) or not math.isfinite(metrics.smoothed_loss):
        first = broken[0] if broken else view.packet.step
        yield _finding(RiskReason.RISK_REASON_NON_FINITE_LOSS, CONSERVATIVE, CRITICAL, first)


def loss_spike(view: RiskView) -> Iterator[RiskFinding]:
    loss = view.packet.metrics.smoothed_loss
    if view.previous_loss is None or not math.isfinite(loss):
        return
    rise = (loss - view.previous_loss) / max(view.previous_loss, view.loss_floor)
    if rise > view.limits.loss_rise_spike and not view.is_jumping:
        yield _finding(RiskReason.RISK_REASON_LOSS_SPIKE, CONSERVATIVE, WARNING, rise, view.limits.loss_rise_spike)
    elif rise > view.limits.loss_rise_warning:
        yield _finding(RiskReason.RISK_REASON_LOSS_SPIKE, NOTE, INFO, rise, view.limits.loss_rise_warning)


def late_inference(view: RiskView) -> Iterator[RiskFinding]:
    if view.was_late:
        yield _finding(RiskReason.RISK_REASON_TIMEOUT_INFERENCE, CONSERVATIVE, CRITICAL)


def late_artifact(view: RiskView) -> Iterator[RiskFinding]:
    """Urza was too slow for Kasmina since the packet before; a service that begins anew counts from 0."""
    new = view.packet.growth.artifact_timeouts - view.previous_artifact_timeouts
    if new > 0:
        effect = HOLD if view.latency_rules else NOTE
        yield _finding(RiskReason.RISK_REASON_TIMEOUT_URZA, effect, CRITICAL, new, 0)


def isolation(view: RiskView) -> Iterator[RiskFinding]:
    new = view.packet.isolation_violations - view.previous_violations
    if new > 0:
        yield _finding(RiskReason.RISK_REASON_ISOLATION_VIOLATION, CONSERVATIVE, WARNING, new, 0)


def degraded_inputs(view: RiskView) -> Iterator[RiskFinding]:
    limits, reason = view.limits, RiskReason.RISK_REASON_DEGRADED_INPUTS
    if view.coverage <= limits.coverage_conservative:
        yield _finding(reason, CONSERVATIVE, CRITICAL, view.coverage, limits.coverage_conservative)
    elif view.coverage < limits.coverage_hold:
        yield _finding(reason, HOLD, INFO, view.coverage, limits.coverage_hold)


def loss_noise(view: RiskView) -> Iterator[RiskFinding]:
    metrics = view.packet.metrics
    if metrics.HasField("smoothed_loss_standard_error"):
        noise = metrics.smoothed_loss_standard_error / max(abs(metrics.smoothed_loss), view.loss_floor)
        yield from _above(RiskReason.RISK_REASON_LOSS_VOLATILITY, noise, view.limits.loss_noise)


def gradient_noise(view: RiskView) -> Iterator[RiskFinding]:
    metrics = view.packet.metrics
    if metrics.HasField("gradient_norm_variance") and metrics.gradient_norm > 0:
        noise = metrics.gradient_norm_variance / metrics.gradient_norm**2
        yield from _above(RiskReason.RISK_REASON_GRADIENT_VARIANCE, noise, view.limits.gradient_variation)


def gradient_conflict(view: RiskView) -> Iterator[RiskFinding]:
    metrics = view.packet.metrics
    if metrics.HasField("gradient_conflict_rate"):
        rate = metrics.gradient_conflict_rate
        yield from _above(RiskReason.RISK_REASON_GRADIENT_CONFLICT, rate, view.limits.gradient_conflict)


def latencies(view: RiskView) -> Iterator[RiskFinding]:
    metrics, limits = view.packet.metrics, view.limits
    step, hook = metrics.step_latency_ms, metrics.hook_latency_ms
    yield from _measured(view, RiskReason.RISK_REASON_STEP_LATENCY, step, limits.step_latency_ms)
    yield from _measured(view, RiskReason.RISK_REASON_HOOK_BUDGET, hook, limits.hook_latency_ms)


def pressure(view: RiskView) -> Iterator[RiskFinding]:
    hardware, limits = view.packet.hardware, view.limits
    if hardware.memory_total_bytes > 0:
        share = hardware.memory_used_bytes / hardware.memory_total_bytes
        yield from _measured(view, RiskReason.RISK_REASON_DEVICE_PRESSURE, share, limits.device_memory_share)
    if hardware.device_type == "cpu":
        wait = hardware.processor_wait
        yield from _measured(view, RiskReason.RISK_REASON_CPU_PRESSURE, wait, limits.processor_wait)


def policy_severity(view: RiskView) -> Iterator[RiskFinding]:
    limits, reason = view.limits, RiskReason.RISK_REASON_POLICY_RISK
    if view.severity >= limits.policy_risk_conservative:
        yield _finding(reason, CONSERVATIVE, CRITICAL, view.severity, limits.policy_risk_conservative)
    elif view.severity >= limits.policy_risk_hold:
        yield _finding(reason, HOLD, WARNING, view.severity, limits.policy_risk_hold)


def blueprint_safety(view: RiskView) -> Iterator[RiskFinding]:
    """The safety sheet of what would be grown; a run that names the blueprint is warned, not held."""
    if view.blueprint is None:
        return
    sheet, limits = view.blueprint.safety, view.limits
    effect, level = (NOTE, WARNING) if view.is_named else (HOLD, CRITICAL)
    if sheet.handling == HandlingClass.HANDLING_CLASS_QUARANTINE:
        yield _finding(RiskReason.RISK_REASON_BLUEPRINT_QUARANTINE, effect, level)
    if sheet.hazard == HazardBand.HAZARD_BAND_CRITICAL:
        yield _finding(RiskReason.RISK_REASON_HAZARD_CRITICAL, effect, level, sheet.risk_score)
    elif sheet.hazard == HazardBand.HAZARD_BAND_HIGH:
        yield _finding(RiskReason.RISK_REASON_HAZARD_HIGH, NOTE, WARNING, sheet.risk_score)
    if sheet.risk_score >= limits.blueprint_risk_hold:
        reason, limit = RiskReason.RISK_REASON_BLUEPRINT_RISK, limits.blueprint_risk_hold
        yield _finding(reason, effect, WARNING, sheet.risk_score, limit)
    elif sheet.risk_score >= limits.blueprint_risk_warning:
        reason, limit = RiskReason.RISK_REASON_BLUEPRINT_RISK, limits.blueprint_risk_warning
        yield _finding(reason, NOTE, WARNING, sheet.risk_score, limit)


def conservative_mode(view: RiskView) -> Iterator[RiskFinding]:
    mode, emergency = view.packet.mode, view.packet.growth.emergency
    is_degraded = mode not in (SystemMode.SYSTEM_MODE_UNSPECIFIED, SystemMode.SYSTEM_MODE_NORMAL)
    is_emergency = emergency >= EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE
    if view.is_conservative or is_degraded or is_emergency:
        yield _finding(RiskReason.RISK_REASON_CONSERVATIVE_MODE, HOLD, INFO)


RULES: tuple[Rule, ...] = (
    non_finite_loss,
    loss_spike,
    isolation,
    degraded_inputs,
    late_inference,
    late_artifact,
    policy_severity,
    blueprint_safety,
    conservative_mode,
    loss_noise,
    gradient_noise,
    gradient_conflict,
    latencies,
    pressure,
)


def _measured(view: RiskView, reason: RiskReason, value: float, limit: float) -> Iterator[RiskFinding]:
    yield from _above(reason, value, limit, HOLD if view.latency_rules else NOTE, WARNING)


def _above(
    reason: RiskReason, value: float, limit: float, effect: RiskEffect = NOTE, level: TelemetryLevel = INFO
) -> Iterator[RiskFinding]:
    if value > limit:
        yield _finding(reason, effect, level, value, limit)


def _finding(
    reason: RiskReason,
    effect: RiskEffect,
    level: TelemetryLevel,
    measured: float | None = None,
    threshold: float | None = None,
) -> RiskFinding:
    return RiskFinding(reason=reason, effect=effect, level=level, measured=measured, threshold=threshold)
