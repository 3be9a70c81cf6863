"""Metrics of the bus; whoever hosts it reports them."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec

QUEUE_DEPTH = MetricSpec(
    "oona.queue.depth", "count", "Envelopes of a lane that its slowest group has not handled.", ("lane",)
)
PUBLISHED = MetricSpec("oona.publish_total", "count", "Envelopes stored.")
PUBLISH_DROPPED = MetricSpec("oona.publish_dropped", "count", "Envelopes refused because their lane was full.")
DEAD_LETTERS = MetricSpec("oona.dead_letter_total", "count", "Envelopes that were put aside.")
PUBLISH_LATENCY = MetricSpec("oona.publish_latency_ms", "ms", "Time that the last publication took to be durable.")

METRICS = (QUEUE_DEPTH, PUBLISHED, PUBLISH_DROPPED, DEAD_LETTERS, PUBLISH_LATENCY)
EVENTS: tuple[EventSpec, ...] = ()
