"""The alert rules: one row each, over names from the metric and event registries."""

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


@dataclass(frozen=True, slots=True)
class EventRule:
    """Raised by any of `events`; cleared once none has come for as long as `QUIET_S`."""

    name: str
    events: tuple[str, ...]
    severity: Severity
    routes: tuple[str, ...]
    help: str


# How long it must be quiet before an alert about events clears; Prometheus looks back as far.
QUIET_S = 300.0

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
EVENT_RULES: tuple[EventRule, ...] = (
    EventRule("commands_rejected", ("command_rejected",), "critical", PAGE,
              "A signed request was refused: a wrong clock, a wrong key, or somebody tries."),
    EventRule("rollback_deadline_missed", ("tolaria.rollback.deadline_exceeded",), "critical", PAGE,
              "An older state of a run could not be restored in time."),
    EventRule("rollback_failed", ("tolaria.rollback.restore_failed",), "critical", PAGE,
              "A run could not go back to any older state and has ended."),
    EventRule("prefetch_timed_out", ("prefetch_timeout",), "critical", PAGE,
              "Urza didn't answer for an artefact in time: a seed was not germinated."),
    EventRule("tamiyo_bsds_critical", ("bsds_hazard_critical",), "critical", PAGE,
              "A blueprint's safety sheet says that it is dangerous: it is not grown."),
    EventRule("tamiyo_bsds_high", ("bsds_hazard_high",), "warning", SLACK,
              "A blueprint's safety sheet warns of it."),
    EventRule("tamiyo_bsds_elevated_risk", ("blueprint_risk",), "warning", SLACK,
              "The blueprint that was chosen has a high risk."),
)
# fmt: on
# What every CRITICAL event raises that none of the rules above is about.
CRITICAL_RULE = EventRule(
    "critical_event",
    (),
    "critical",
    PAGE,
    "Something happened that someone has to act on; the label event names it.",
)
