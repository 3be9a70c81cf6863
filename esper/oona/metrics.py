"""Metrics of the bus; whoever hosts it reports them."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

QUEUE_DEPTH = MetricSpec(
    "oona.queue.depth", "count", "Envelopes of a lane that its slowest group has not handled.", ("lane",)
)
PUBLISHED = MetricSpec("oona.publish_total", "count", "Envelopes stored.")
PUBLISH_DROPPED = MetricSpec("oona.publish_dropped", "count", "Envelopes refused because their lane was full.")
DEAD_LETTERS = MetricSpec("oona.dead_letter_total", "count", "Envelopes that were put aside.")
GROUP_LOST = MetricSpec(
    "oona.group_lost_total", "count", "Envelopes that a forgotten group had not handled.", ("group",)
)
PUBLISH_LATENCY = MetricSpec("oona.publish_latency_ms", "ms", "Time that the last publication took to be durable.")

GROUP_FORGOTTEN = EventSpec(
    "group_forgotten",
    TelemetryLevel.TELEMETRY_LEVEL_WARNING,
    "A group that nobody read for any more was forgotten, with what it had not handled.",
    ("group", "lost"),
)

METRICS = (QUEUE_DEPTH, PUBLISHED, PUBLISH_DROPPED, DEAD_LETTERS, GROUP_LOST, PUBLISH_LATENCY)
EVENTS = (GROUP_FORGOTTEN,)
