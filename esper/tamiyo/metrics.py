"""Everything that Tamiyo measures and announces. Names are a contract with dashboards and alert rules."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import RiskReason, TelemetryLevel
from esper.tamiyo.features import GROUPS

INFO = TelemetryLevel.TELEMETRY_LEVEL_INFO
WARNING = TelemetryLevel.TELEMETRY_LEVEL_WARNING
ERROR = TelemetryLevel.TELEMETRY_LEVEL_ERROR
CRITICAL = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL

FEATURE_COVERAGE = MetricSpec("tamiyo.gnn.feature_coverage", "ratio", "Share of the policy's inputs that are there")
GROUP_FEATURE_COVERAGE = {
    group: MetricSpec(f"tamiyo.gnn.feature_coverage.{group}", "ratio", f"Share of the {group} inputs that are there")
    for group in GROUPS
}
COVERAGE_AVG = MetricSpec("tamiyo.coverage.feature.avg", "ratio", "Mean coverage over the groups of inputs")
COVERAGE_MIN = MetricSpec("tamiyo.coverage.feature.min", "ratio", "Coverage of the worst group of inputs")
COVERAGE_MAX = MetricSpec("tamiyo.coverage.feature.max", "ratio", "Coverage of the best group of inputs")
COVERAGE_GROUP = {
    group: MetricSpec(f"tamiyo.coverage.group.{group}", "ratio", f"Coverage of the {group} inputs") for group in GROUPS
}
LOSS_DELTA = MetricSpec("tamiyo.loss_delta", "loss", "Change of the smoothed loss since the last packet")
SMOOTHED_LOSS = MetricSpec("tamiyo.smoothed_loss", "loss", "Smoothed training loss that the policy saw")
LOSS_SLOPE = MetricSpec("tamiyo.loss_slope", "ratio", "Relative fall of the smoothed loss per 100 steps")
CONSERVATIVE_MODE = MetricSpec("tamiyo.conservative_mode", "bool", "1 while nothing is germinated out of caution")
INFERENCE_LATENCY = MetricSpec("tamiyo.inference.latency_ms", "ms", "Time to decide on a packet")
GNN_INFERENCE_LATENCY = MetricSpec(
    "tamiyo.gnn.inference.latency_ms", "ms", "Time to decide on a packet, under its older name"
)
RISK_SCORE = MetricSpec("tamiyo.policy.risk_score", "score", "Severity of the risk findings, 0 to 1")
VALUE_ESTIMATE = MetricSpec(
    "tamiyo.policy.value_estimate", "score", "The policy's value of the state, where it has one"
)
LEARNED_DECISIONS = MetricSpec(
    "tamiyo.policy.learned_decisions", "count", "Germinations with an outcome under the weights in force"
)
LEARNED_REWARD = MetricSpec("tamiyo.policy.reward", "score", "Mean worth of those decisions; growing nothing has 0")
SHADOW_DECISIONS = MetricSpec(
    "tamiyo.policy.shadow_decisions", "count", "Decisions of the weights on trial, 0 where none are"
)
BLUEPRINT_RISK = MetricSpec("tamiyo.blueprint.risk", "score", "Risk of the chosen blueprint", ("blueprint_id",))
SELECTION_SCORE = MetricSpec("tamiyo.selection.slot_score", "score", "Score of the chosen slot", ("slot_id",))
COMMANDS = MetricSpec("tamiyo.commands_total", "count", "Commands signed since the service started")
DECISIONS = MetricSpec("tamiyo.decisions_total", "count", "Decisions since the service started")
COMMAND_REJECTED_TOTAL = MetricSpec(
    "tamiyo.command_rejected", "count", "Requests refused for their signature or token since the service started"
)
INFERENCE_TIMEOUTS = MetricSpec(
    "tamiyo.timeout.inference_total", "count", "Packets that could not be decided on in time, since the service started"
)
LATE_INFERENCE = MetricSpec(
    "tamiyo.timeout.inference_ms", "ms", "Time that the last decision took which was given up, 0 while none was"
)
WORKER_CALLS = MetricSpec(
    "tamiyo.worker.calls_total", "count", "Decisions by what became of them, since the service started", ("fate",)
)
REPORTS_TOTAL = MetricSpec("tamiyo.field_reports.total", "count", "Field reports in the log")
REPORTS_PENDING = MetricSpec("tamiyo.field_reports.pending_total", "count", "Closed field reports not yet published")
REPORTS_PUBLISHED = MetricSpec("tamiyo.field_reports.published_total", "count", "Field reports published since start")
REPORTS_RETRIES = MetricSpec("tamiyo.field_reports.retries_total", "count", "Publications that failed since start")
REPORTS_DROPPED = MetricSpec(
    "tamiyo.field_reports.dropped_total", "count", "Field reports that outlived their retention unpublished"
)

METRICS: tuple[MetricSpec, ...] = (
    FEATURE_COVERAGE,
    *GROUP_FEATURE_COVERAGE.values(),
    COVERAGE_AVG,
    COVERAGE_MIN,
    COVERAGE_MAX,
    *COVERAGE_GROUP.values(),
    LOSS_DELTA,
    SMOOTHED_LOSS,
    LOSS_SLOPE,
    CONSERVATIVE_MODE,
    INFERENCE_LATENCY,
    GNN_INFERENCE_LATENCY,
    RISK_SCORE,
    VALUE_ESTIMATE,
    LEARNED_DECISIONS,
    LEARNED_REWARD,
    SHADOW_DECISIONS,
    BLUEPRINT_RISK,
    SELECTION_SCORE,
    COMMANDS,
    DECISIONS,
    COMMAND_REJECTED_TOTAL,
    INFERENCE_TIMEOUTS,
    LATE_INFERENCE,
    WORKER_CALLS,
    REPORTS_TOTAL,
    REPORTS_PENDING,
    REPORTS_PUBLISHED,
    REPORTS_RETRIES,
    REPORTS_DROPPED,
)

_FINDING = ("effect", "measured", "threshold")
# One event for each reason of the risk rules; a finding may raise or lower the level declared here.
RISK_EVENTS: dict[RiskReason, EventSpec] = {
    RiskReason.RISK_REASON_NON_FINITE_LOSS: EventSpec(
        "loss_non_finite", CRITICAL, "A loss is NaN or infinite", _FINDING
    ),
    RiskReason.RISK_REASON_LOSS_SPIKE: EventSpec("loss_spike", WARNING, "The smoothed loss rose sharply", _FINDING),
    RiskReason.RISK_REASON_TIMEOUT_INFERENCE: EventSpec(
        "timeout_inference", CRITICAL, "A packet could not be decided on in time", _FINDING
    ),
    RiskReason.RISK_REASON_TIMEOUT_URZA: EventSpec(
        "timeout_urza", CRITICAL, "Urza did not deliver an artefact in time", _FINDING
    ),
    RiskReason.RISK_REASON_ISOLATION_VIOLATION: EventSpec(
        "isolation_violations", WARNING, "A seed's gradient leaked into the host", _FINDING
    ),
    RiskReason.RISK_REASON_DEGRADED_INPUTS: EventSpec(
        "degraded_inputs", CRITICAL, "Too few of the policy's inputs are there", _FINDING
    ),
    RiskReason.RISK_REASON_POLICY_RISK: EventSpec(
        "policy_risk_critical", CRITICAL, "The policy expects harm", _FINDING
    ),
    RiskReason.RISK_REASON_BLUEPRINT_QUARANTINE: EventSpec(
        "bp_quarantine", CRITICAL, "The chosen blueprint is quarantined", _FINDING
    ),
    RiskReason.RISK_REASON_HAZARD_CRITICAL: EventSpec(
        "bsds_hazard_critical", CRITICAL, "The chosen blueprint's safety sheet says CRITICAL", _FINDING
    ),
    RiskReason.RISK_REASON_HAZARD_HIGH: EventSpec(
        "bsds_hazard_high", WARNING, "The chosen blueprint's safety sheet says HIGH", _FINDING
    ),
    RiskReason.RISK_REASON_BLUEPRINT_RISK: EventSpec(
        "blueprint_risk", WARNING, "The chosen blueprint's risk is high", _FINDING
    ),
    RiskReason.RISK_REASON_CONSERVATIVE_MODE: EventSpec(
        "pause_triggered", INFO, "Growth waits: conservative mode here or in the plane", _FINDING
    ),
    RiskReason.RISK_REASON_LOSS_VOLATILITY: EventSpec("loss_volatility_high", INFO, "The loss is noisy", _FINDING),
    RiskReason.RISK_REASON_GRADIENT_VARIANCE: EventSpec("grad_variance_high", INFO, "Gradients are noisy", _FINDING),
    RiskReason.RISK_REASON_GRADIENT_CONFLICT: EventSpec(
        "grad_conflict_high", INFO, "Many gradients conflict", _FINDING
    ),
    RiskReason.RISK_REASON_STEP_LATENCY: EventSpec("step_latency_high", WARNING, "Steps are slow", _FINDING),
    RiskReason.RISK_REASON_HOOK_BUDGET: EventSpec("hook_budget", WARNING, "Boundary work is slow", _FINDING),
    RiskReason.RISK_REASON_DEVICE_PRESSURE: EventSpec(
        "device_pressure_high", WARNING, "The memory is nearly full", _FINDING
    ),
    RiskReason.RISK_REASON_CPU_PRESSURE: EventSpec(
        "cpu_pressure_high", WARNING, "The training thread waits for a processor", _FINDING
    ),
}
COVERAGE_MISSING = EventSpec("tamiyo.coverage.missing", WARNING, "A whole group of inputs is absent", ("groups",))
CONSERVATIVE_ENTERED = EventSpec("conservative_entered", WARNING, "Nothing is germinated from now on", ("reason",))
CONSERVATIVE_EXITED = EventSpec(
    "conservative_exited", INFO, "Growth is allowed again", ("reason", "previous_reason", "duration_steps")
)
COMMAND_ISSUED = EventSpec(
    "command_issued", INFO, "A command was signed for Kasmina", ("command_id", "action", "seed_id", "slot_id", "reason")
)
COMMAND_EXPIRED = EventSpec("command_expired", WARNING, "A command had no effect by its deadline", ("command_id",))
COMMAND_REJECTED = EventSpec(
    "command_rejected",
    CRITICAL,
    "A request was refused for its signature or token; `count` where one event tells of many",
    ("method", "reason", "count"),
)
REPLAY_MISMATCH = EventSpec(
    "replay_mismatch", ERROR, "A command is replayed that wasn't decided again", ("command_id",)
)
POLICY_UPDATE_APPLIED = EventSpec(
    "policy_update_applied", INFO, "New thresholds are in force", ("update_id", "version")
)
POLICY_UPDATE_REJECTED = EventSpec(
    "policy_update_rejected",
    WARNING,
    "A policy update was refused; the live policy stays",
    ("update_id", "reason", "detail", "version"),
)
POLICY_SHADOWED = EventSpec(
    "policy_shadowed",
    INFO,
    "New weights are sound and decide beside the live policy; `made` says when they were",
    ("update_id", "version", "made"),
)
POLICY_SWAPPED = EventSpec(
    "policy_swapped",
    INFO,
    "New weights are in force for new runs",
    ("update_id", "version", "digest", "decisions", "agreed"),
)
POLICY_ROLLED_BACK = EventSpec(
    "policy_rolled_back",
    WARNING,
    "Weights were withdrawn; what was in force before is again",
    ("update_id", "version", "reason"),
)
REPORT_RETRY = EventSpec("field_report_retry", WARNING, "Field reports couldn't be published yet", ("pending",))
REPORT_DROP = EventSpec("field_report_drop", WARNING, "Field reports outlived their retention unpublished", ("count",))
LOG_REPAIRED = EventSpec("field_report_log_repaired", WARNING, "A torn record was cut off the field-report log", ())

EVENTS: tuple[EventSpec, ...] = (
    *RISK_EVENTS.values(),
    COVERAGE_MISSING,
    CONSERVATIVE_ENTERED,
    CONSERVATIVE_EXITED,
    COMMAND_ISSUED,
    COMMAND_EXPIRED,
    COMMAND_REJECTED,
    REPLAY_MISMATCH,
    POLICY_UPDATE_APPLIED,
    POLICY_UPDATE_REJECTED,
    POLICY_SHADOWED,
    POLICY_SWAPPED,
    POLICY_ROLLED_BACK,
    REPORT_RETRY,
    REPORT_DROP,
    LOG_REPAIRED,
)
