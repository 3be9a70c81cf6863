"""The alert rules: one row each, over names from the metric registries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import gt, lt
from typing import Literal

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Raised when `metric` was past `threshold` in `packets` packets of one source that have it, one after another."""

    name: str
    metric: str
    past: Callable[[float, float], bool]
    threshold: float
    packets: int
    severity: Severity
    routes: tuple[str, ...]
    help: str


RULES: tuple[Rule, ...] = (
    Rule(
        name="tamiyo_coverage_low",
        metric="tamiyo.gnn.feature_coverage",
        past=lt,
        threshold=0.7,
        packets=3,
        severity="warning",
        routes=("slack",),
        help="Tamiyo decides on incomplete inputs.",
    ),
    Rule(
        name="training_latency_high",
        metric="tolaria.training.latency_ms",
        past=gt,
        threshold=350.0,
        packets=3,
        severity="warning",
        routes=("slack",),
        help="Training steps are slow.",
    ),
    Rule(
        name="training_latency_critical",
        metric="tolaria.training.latency_ms",
        past=gt,
        threshold=800.0,
        packets=3,
        severity="critical",
        routes=("pagerduty", "slack"),
        help="Training steps are so slow that the run is at risk.",
    ),
    Rule(
        name="kasmina_isolation_violation",
        metric="kasmina.isolation.violations",
        past=gt,
        threshold=0.0,
        packets=1,
        severity="critical",
        routes=("pagerduty",),
        help="A seed's gradient leaked into the host.",
    ),
    Rule(
        name="oona_queue_depth",
        metric="oona.queue.depth",
        past=gt,
        threshold=4000.0,
        packets=2,
        severity="warning",
        routes=("slack",),
        help="A consumer of the bus falls behind.",
    ),
    Rule(
        name="services_lost",
        metric="weatherlight.services.lost",
        past=gt,
        threshold=0.0,
        packets=1,
        severity="critical",
        routes=("pagerduty",),
        help="A registered service is silent.",
    ),
    Rule(
        name="emergency_open",
        metric="weatherlight.emergency.level",
        past=gt,
        threshold=2.0,
        packets=1,
        severity="critical",
        routes=("pagerduty",),
        help="An emergency of level 3 or above is open.",
    ),
)
