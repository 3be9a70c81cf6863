"""Urza's metrics, which Weatherlight tells: prefetches are answered where the bus is. Each is declared here once."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec

ANSWERED = MetricSpec("urza.prefetch.answered_total", "count", "Requests for artefacts answered since the start.")
REFUSED = MetricSpec("urza.prefetch.refused_total", "count", "Requests for artefacts that could not be believed.")
WORKER_CALLS = MetricSpec(
    "urza.worker.calls_total", "count", "Verifications since the start, by what became of them.", ("fate",)
)

METRICS: tuple[MetricSpec, ...] = (ANSWERED, REFUSED, WORKER_CALLS)
EVENTS: tuple[EventSpec, ...] = ()
