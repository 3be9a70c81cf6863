"""The alert rules: one row each, over names from the metric registries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import gt, lt
from typing import Literal

Severity = Literal["warning", "critical"]
SLACK, PAGE, BOTH = ("slack",), ("pagerduty",), ("pagerduty", "slack")


@dataclass(frozen=True, slots=True)
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


# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("tamiyo_coverage_low", "tamiyo.gnn.feature_coverage", lt, 0.7, 3, "warning", SLACK,
         "Tamiyo decides on incomplete inputs."),
    Rule("training_latency_high", "tolaria.training.latency_ms", gt, 350.0, 3, "warning", SLACK,
         "Training steps are slow."),
    Rule("training_latency_critical", "tolaria.training.latency_ms", gt, 800.0, 3, "critical", BOTH,
         "Training steps are so slow that the run is at risk."),
    Rule("kasmina_isolation_violation", "kasmina.isolation.violations", gt, 0.0, 1, "critical", PAGE,
         "A seed's gradient leaked into the host."),
    Rule("oona_queue_depth", "oona.queue.depth", gt, 4000.0, 2, "warning", SLACK,
         "A consumer of the bus falls behind."),
    Rule("services_lost", "weatherlight.services.lost", gt, 0.0, 1, "critical", PAGE,
         "A registered service is silent."),
    Rule("emergency_open", "weatherlight.emergency.level", gt, 2.0, 1, "critical", PAGE,
         "An emergency of level 3 or above is open."),
    Rule("breaker_open", "tolaria.breaker.state", gt, 1.0, 1, "warning", SLACK,
         "A run doesn't ask a service that hangs."),
)
# fmt: on
