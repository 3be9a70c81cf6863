"""Fields that a message needs under a condition, and the ranges of its numbers, as data for `validation` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from esper.leyline import (
    BlendMode,
    DirectiveKind,
    IncubationMode,
    PrefetchStatus,
    SeedOperationKind,
    SlotKind,
)

ISSUED_BY_POLICY = "tamiyo"
MAX_ALPHA_ENTRIES = 64
_SHARE = (0.0, 1.0)
_NOT_NEGATIVE = (0.0, math.inf)
_POSITIVE = (math.nextafter(0.0, 1.0), math.inf)
_FINITE = (-math.inf, math.inf)

RUN_WIDE_DIRECTIVES = frozenset(
    {
        DirectiveKind.DIRECTIVE_KIND_ADJUST_OPTIMIZER,
        DirectiveKind.DIRECTIVE_KIND_ROLLBACK,
        DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH,
        DirectiveKind.DIRECTIVE_KIND_RESUME_GROWTH,
        DirectiveKind.DIRECTIVE_KIND_HALT,
        DirectiveKind.DIRECTIVE_KIND_DROP_TEACHER,
    }
)
_TIMED_DIRECTIVES = (DirectiveKind.DIRECTIVE_KIND_INCUBATE, DirectiveKind.DIRECTIVE_KIND_FADE)
_BLENDING_DIRECTIVES = (DirectiveKind.DIRECTIVE_KIND_SET_BLEND, DirectiveKind.DIRECTIVE_KIND_ATTACH)
_SLOT_DIRECTIVES = (DirectiveKind.DIRECTIVE_KIND_BUILD, DirectiveKind.DIRECTIVE_KIND_ATTACH)
_BLENDING_OPERATIONS = (
    SeedOperationKind.SEED_OPERATION_KIND_GERMINATE,
    SeedOperationKind.SEED_OPERATION_KIND_CHANGE_BLEND,
)
_UNREADY = (
    PrefetchStatus.PREFETCH_STATUS_ERROR,
    PrefetchStatus.PREFETCH_STATUS_TIMEOUT,
    PrefetchStatus.PREFETCH_STATUS_CANCELED,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`fields` of `message` are required `when` the condition, in words `condition`, holds."""

    message: str
    fields: str
    condition: str
    when: Callable[[Any], bool]


RULES: tuple[Rule, ...] = (
    Rule("AdaptationCommand", "metadata", "from a policy", lambda m: m.issued_by == ISSUED_BY_POLICY),
    Rule(
        "AdaptationCommand",
        "metadata.coverage",
        "from a policy",
        lambda m: m.issued_by == ISSUED_BY_POLICY and m.HasField("metadata"),
    ),
    Rule(
        "AdaptationCommand",
        "metadata.selection",
        "for GERMINATE by a policy",
        lambda m: (
            m.issued_by == ISSUED_BY_POLICY
            and m.HasField("metadata")
            and m.seed.operation == SeedOperationKind.SEED_OPERATION_KIND_GERMINATE
        ),
    ),
    Rule(
        "SeedOperation",
        "slot_id blueprint_id initialization_seed",
        "for GERMINATE",
        lambda m: m.operation == SeedOperationKind.SEED_OPERATION_KIND_GERMINATE,
    ),
    Rule("SeedOperation", "blend", "for GERMINATE and CHANGE_BLEND", lambda m: m.operation in _BLENDING_OPERATIONS),
    Rule(
        "SeedOperation",
        "target_stage",
        "for ADVANCE_TO",
        lambda m: m.operation == SeedOperationKind.SEED_OPERATION_KIND_ADVANCE_TO,
    ),
    Rule("BlendConfig", "alpha_vec", "for CHANNEL", lambda m: m.mode == BlendMode.BLEND_MODE_CHANNEL),
    Rule(
        "BlendConfig",
        "confidence gate_slope gate_threshold",
        "for CONFIDENCE",
        lambda m: m.mode == BlendMode.BLEND_MODE_CONFIDENCE,
    ),
    Rule("CommandOutcome", "rejection", "when not accepted", lambda m: m.HasField("accepted") and not m.accepted),
    Rule("CommandOutcome", "ledger_seq recorded_at", "when recorded", lambda m: m.accepted),
    Rule("SeedDirective", "seed_id", "for a seed's directive", lambda m: m.kind not in RUN_WIDE_DIRECTIVES),
    Rule("SeedDirective", "slot_id", "for BUILD and ATTACH", lambda m: m.kind in _SLOT_DIRECTIVES),
    Rule(
        "SeedDirective",
        "blueprint_id artifact_digest initialization_seed",
        "for BUILD",
        lambda m: m.kind == DirectiveKind.DIRECTIVE_KIND_BUILD,
    ),
    Rule("SeedDirective", "blend", "for SET_BLEND and ATTACH", lambda m: m.kind in _BLENDING_DIRECTIVES),
    Rule("SeedDirective", "duration_steps", "for INCUBATE and FADE", lambda m: m.kind in _TIMED_DIRECTIVES),
    Rule("SeedDirective", "look", "for JUDGE", lambda m: m.kind == DirectiveKind.DIRECTIVE_KIND_JUDGE),
    Rule(
        "SeedDirective",
        "optimizer",
        "for ADJUST_OPTIMIZER",
        lambda m: m.kind == DirectiveKind.DIRECTIVE_KIND_ADJUST_OPTIMIZER,
    ),
    Rule("DirectiveReport", "seed_id", "for a seed's directive", lambda m: m.kind not in RUN_WIDE_DIRECTIVES),
    Rule("DirectiveReport", "failure", "when not succeeded", lambda m: m.HasField("succeeded") and not m.succeeded),
    Rule(
        "DirectiveReport",
        "digest_matched parameters_finite",
        "for a BUILD that succeeded",
        lambda m: m.succeeded and m.kind == DirectiveKind.DIRECTIVE_KIND_BUILD,
    ),
    Rule(
        "DirectiveReport",
        "folded",
        "for a FOLD that succeeded",
        lambda m: m.succeeded and m.kind == DirectiveKind.DIRECTIVE_KIND_FOLD,
    ),
    Rule("GetCommandResponse", "outcome", "when found", lambda m: m.found),
    Rule("PrefetchUpdate", "artifact", "when READY", lambda m: m.status == PrefetchStatus.PREFETCH_STATUS_READY),
    Rule("PrefetchUpdate", "error", "when ERROR, TIMEOUT or CANCELED", lambda m: m.status in _UNREADY),
    Rule("SeedRecipe", "entry", "with `source`", lambda m: m.HasField("source")),
    Rule("PolicyUpdate", "weights_digest", "with weights", lambda m: m.HasField("weights")),
    Rule("TamiyoRunSpec", "trigger.trigger", "when a run opens", lambda m: m.HasField("trigger")),
    Rule("FieldReport", "closed_at closed_step", "when closed", lambda m: m.outcome != 0),
    Rule(
        "ProbeResult",
        "mismatch",
        "when the interface doesn't match",
        lambda m: m.HasField("interface_matches") and not m.interface_matches,
    ),
    Rule(
        "LifeSettings",
        "incubation_steps",
        "for SHADOW",
        lambda m: m.incubation == IncubationMode.INCUBATION_MODE_SHADOW,
    ),
    Rule(
        "SlotSpec",
        "depth block_parameters block_forward_macs",
        "for STACK",
        lambda m: m.kind == SlotKind.SLOT_KIND_STACK,
    ),
    Rule("Decision", "command_ids", "with commands", lambda m: len(m.commands) > 0),
    Rule(
        "ApplyPolicyUpdateResponse",
        "rejection",
        "when not accepted",
        lambda m: m.HasField("accepted") and not m.accepted,
    ),
    Rule("ConsumeRequest", "consumer lanes", "in the first message", lambda m: m.group != ""),
    Rule(
        "ConsumeRequest",
        "acknowledged_event_ids",
        "after the first message",
        lambda m: m.group == "" and not m.rejected_event_ids,
    ),
)

RANGES: Mapping[str, tuple[float, float]] = {
    "BlendConfig.alpha_target": _SHARE,
    "BlendConfig.alpha_start": _SHARE,
    "BlendConfig.alpha_vec": _SHARE,
    "BlendConfig.gate_slope": _POSITIVE,
    "BlendConfig.gate_threshold": _SHARE,
    "BlendConfig.share_min": _SHARE,
    "BlendConfig.share_max": _SHARE,
    "BlendFigures.alpha_mean": _SHARE,
    "BlendFigures.alpha_p95": _SHARE,
    "BlendFigures.clamped_fraction": _SHARE,
    "BlendFigures.gate_mean": _SHARE,
    "BlendFigures.sparsity": _SHARE,
    "BlendSettings.alpha_target": _SHARE,
    "BlendSettings.alpha_vec": _SHARE,
    "BlendSettings.gate_slope": _POSITIVE,
    "BlendSettings.gate_threshold": _SHARE,
    "BlendSettings.share_max": _SHARE,
    "BlendSettings.share_min": _SHARE,
    "CommandOutcome.verify_latency_ms": _NOT_NEGATIVE,
    "CoverageSummary.average": _SHARE,
    "Decision.latency_ms": _NOT_NEGATIVE,
    "DrainOrder.grace_s": _NOT_NEGATIVE,
    "FieldReportDelta.effect": _FINITE,
    "FieldReportDelta.gain": _FINITE,
    "FieldReportDelta.gain_at_equal_macs": _FINITE,
    "FieldReportDelta.gain_standard_error": _NOT_NEGATIVE,
    "FieldReportDelta.risk_score": _SHARE,
    "FieldReportDelta.twin_score": _FINITE,
    "HardwareContext.processor_wait": _SHARE,
    "LifeSettings.margin_absolute": _FINITE,
    "LifeSettings.margin_relative": _FINITE,
    "LifeSettings.stability_limit": _NOT_NEGATIVE,
    "LifeSettings.tau": _NOT_NEGATIVE,
    "Observation.wait_probability": _SHARE,
    "ObservedCandidate.probability": _SHARE,
    "ObservedCandidate.score": _FINITE,
    "ObservedFeature.value": _FINITE,
    "OptimizerAdjustment.learning_rate_factor": (0.01, 100.0),
    "OptimizerAdjustment.momentum": _SHARE,
    "OptimizerAdjustment.weight_decay": _NOT_NEGATIVE,
    "ParameterBounds.default_value": _FINITE,
    "ParameterBounds.max_value": _FINITE,
    "ParameterBounds.min_value": _FINITE,
    "ParameterValue.value": _FINITE,
    "PolicyMetadata.log_probability": (-math.inf, 0.0),
    "RiskMetadata.score": _SHARE,
    "RollbackDeadlineSignal.deadline_ms": _NOT_NEGATIVE,
    "RollbackDeadlineSignal.elapsed_ms": _NOT_NEGATIVE,
    "SafetySheet.risk_score": _SHARE,
    "SeedObservation.alpha": _SHARE,
    "SeedState.alpha": _SHARE,
    "StackEvaluation.clipped_share": _SHARE,
    "StackJudging.error_rate": (math.nextafter(0.0, 1.0), 0.5),
    "StackJudging.evaluations": (3, math.inf),
    "StackJudging.margin": _NOT_NEGATIVE,
    "StackJudging.max_clipped_share": _SHARE,
    "StackJudging.parts": (1, math.inf),
    "StackJudging.recovery_steps": (1, math.inf),
    "StackJudging.window_fraction": (math.nextafter(0.0, 1.0), 1.0),
    "StackJudging.window_recoveries": (1.0, math.inf),
    "StackTest.clipped_share": _SHARE,
    "TrainingMetrics.gradient_conflict_rate": _SHARE,
    "TrainingMetrics.training_accuracy": _SHARE,
    "TriggerSettings.saturation_floor": _POSITIVE,
    "TriggerSettings.saturation_share": _SHARE,
    "TriggerSettings.slope_threshold": _POSITIVE,
    "TriggerSettings.span_factor": (math.nextafter(1.0, 2.0), 16.0),
    "TriggerSettings.span_units": (1, 1024),
}
"""Bounds, both included; NaN and infinity are in no range. A number without a range may be anything."""
