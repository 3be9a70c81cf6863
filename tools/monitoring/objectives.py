"""Service level objectives: what may fail, and how fast what may fail in 30 days is used up.

A burn rate of 1 uses the budget up in exactly 30 days. Two windows for each rate: the long one says that it matters,
the short one that it goes on, so that an alert clears soon after its cause. Source: the multi-window, multi-burn-rate
alerts of Google's Site Reliability Workbook, chapter 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The share `budget` of what `total` counts may be in `failed`; both are selectors of counters that begin at 0."""

    name: str
    meaning: str
    failed: str
    total: str
    budget: float


OBJECTIVES = (
    Objective(
        name="calls",
        meaning="a service answers a call without a fault of its own",
        failed="rpc_server_calls_failed_total",
        total="rpc_server_calls_total",
        budget=0.001,
    ),
    Objective(
        name="fast_calls",
        meaning="a service answers a call within a quarter of a second",
        failed="rpc_server_calls_slow_total",
        total="rpc_server_calls_total",
        budget=0.01,
    ),
    Objective(
        name="decisions",
        meaning="a run has its answer to a packet in time",
        failed="tolaria_timeout_total",
        total='tolaria_worker_calls_total{fate="submitted"}',
        budget=0.01,
    ),
    Objective(
        name="prefetches",
        meaning="an artefact is verified in time",
        failed='kasmina_prefetch_requests_total{status=~"error|timeout"}',
        total='kasmina_prefetch_requests_total{status="scheduled"}',
        budget=0.01,
    ),
    Objective(
        name="telemetry",
        meaning="a packet of telemetry arrives",
        failed="weatherlight_telemetry_dropped_total",
        total="weatherlight_telemetry_packets_total",
        budget=0.001,
    ),
)


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert while the budget burns faster than `rate` in both windows."""

    rate: float
    long: str
    short: str


FAST = (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m"))
SLOW = (Burn(3, "1d", "2h"), Burn(1, "3d", "6h"))
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# One failure among few says nothing: long windows need this many to be judged at all.
ENOUGH = 100
JUDGED = {burn.long for burn in (*FAST, *SLOW)} - {burn.short for burn in (*FAST, *SLOW)}


def rules() -> str:
    """The rule file."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Written by tools/genmonitoring from tools/monitoring/objectives.py, which says what the figures mean."
    yield "groups:"
    yield "  - name: objectives"
    yield "    interval: 30s"
    yield "    rules:"
    for objective in OBJECTIVES:
        yield f"      # {objective.name}: {objective.meaning}, but for {objective.budget:.1%}."
        for window in WINDOWS:
            yield f"      - record: esper:slo_burn:rate{window}"
            yield f"        expr: {_burn(objective, window)}"
            yield f"        labels: {{ slo: {objective.name} }}"
    yield from _alert(
        "slo_budget_burns_fast", FAST, "critical", "pagerduty", "would be used up within two days to five: act now"
    )
    yield from _alert("slo_budget_burns", SLOW, "warning", "slack", "will not last for its 30 days: look into it")


def _burn(objective: Objective, window: str) -> str:
    total = f"sum(rate({objective.total}[{window}]))"
    burn = f"sum(rate({objective.failed}[{window}])) / {total} / {objective.budget:g}"
    enough = f" and on () sum(increase({objective.total}[{window}])) >= {ENOUGH}"
    return burn + (enough if window in JUDGED else "")


def _alert(name: str, burns: tuple[Burn, ...], severity: str, route: str, what: str) -> Iterator[str]:
    conditions = " or ".join(
        f"esper:slo_burn:rate{burn.long} > {burn.rate:g} and esper:slo_burn:rate{burn.short} > {burn.rate:g}"
        for burn in burns
    )
    yield f"      - alert: {name}"
    yield f"        expr: {conditions}"
    yield f"        labels: {{ severity: {severity}, route: {route} }}"
    yield f'        annotations: {{ summary: "The error budget of {{{{ $labels.slo }}}} {what}." }}'
