"""Everything that Simic measures and announces. Names are a contract with dashboards and alert rules."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

INFO = TelemetryLevel.TELEMETRY_LEVEL_INFO
WARNING = TelemetryLevel.TELEMETRY_LEVEL_WARNING

REPORTS = MetricSpec("simic.replay.reports", "count", "Field reports in the replay store")
REFUSED = MetricSpec("simic.replay.refused_total", "count", "Reports that were refused, over the store's life")
REPEATED = MetricSpec("simic.replay.repeated_total", "count", "Reports that came again, since the start")
DROPPED = MetricSpec("simic.replay.dropped_total", "count", "Reports that gave way to newer ones, since the start")
DECISIONS = MetricSpec("simic.training.decisions", "count", "Decisions with an outcome that a fit has learned from")
REWARD = MetricSpec("simic.training.reward", "score", "Mean reward of those decisions")
EXPLAINED = MetricSpec(
    "simic.training.explained", "ratio", "Share of the rewards' variance of unseen runs that the model explains"
)
VALUE = MetricSpec("simic.policy.value", "score", "Doubly robust value of the learned policy on unseen runs")
VALUE_ERROR = MetricSpec("simic.policy.value_error", "score", "Standard error of that value, over runs")
VALIDATION = MetricSpec("simic.validation.pass", "bool", "1 where the last fit passed the gate")

METRICS: tuple[MetricSpec, ...] = (
    REPORTS,
    REFUSED,
    REPEATED,
    DROPPED,
    DECISIONS,
    REWARD,
    EXPLAINED,
    VALUE,
    VALUE_ERROR,
    VALIDATION,
)

TRAINED = EventSpec("simic_policy_trained", INFO, "A fit passed the gate", ("version", "digest", "decisions"))
FAILED = EventSpec("simic_validation_failed", WARNING, "A fit didn't pass the gate", ("reasons", "decisions"))
PUBLISHED = EventSpec("simic_policy_published", INFO, "Weights are on the policy lane", ("update_id", "version"))

EVENTS: tuple[EventSpec, ...] = (TRAINED, FAILED, PUBLISHED)
