"""Nissa's metrics and events. Each is declared here once."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

ALERTS_ACTIVE = MetricSpec("nissa.alerts.active", "count", "Alerts that are raised now.")
SERIES_EVICTED = MetricSpec("nissa.series.evicted_total", "count", "Series that made room for newer ones.")
_RECEIVER = ("receiver",)
DELIVERED = MetricSpec("nissa.delivery.delivered_total", "count", "Notifications that a receiver has taken.", _RECEIVER)
DELIVERY_FAILURES = MetricSpec(
    "nissa.delivery.failures_total", "count", "Tries that a receiver didn't take.", _RECEIVER
)
DELIVERY_DROPPED = MetricSpec(
    "nissa.delivery.dropped_total", "count", "Notifications given up: too many waited, or for too long.", _RECEIVER
)
DELIVERY_WAITING = MetricSpec("nissa.delivery.waiting", "count", "Notifications that wait.", _RECEIVER)
METRICS = (ALERTS_ACTIVE, SERIES_EVICTED, DELIVERED, DELIVERY_FAILURES, DELIVERY_DROPPED, DELIVERY_WAITING)

ALERT_RAISED = EventSpec(
    "alert_raised",
    TelemetryLevel.TELEMETRY_LEVEL_WARNING,
    "A rule's condition held for as long as it asks.",
    ("rule", "source", "value", "threshold", "severity", "routes", "event"),
)
ALERT_CLEARED = EventSpec(
    "alert_cleared",
    TelemetryLevel.TELEMETRY_LEVEL_INFO,
    "A raised alert's condition ended.",
    ("rule", "source", "value", "event"),
)
DELIVERY_FAILED = EventSpec(
    "alert_delivery_failed",
    TelemetryLevel.TELEMETRY_LEVEL_ERROR,
    "A receiver doesn't take alerts; they wait and are tried again.",
    _RECEIVER,
)
DELIVERY_RESTORED = EventSpec(
    "alert_delivery_restored", TelemetryLevel.TELEMETRY_LEVEL_INFO, "A receiver takes alerts again.", _RECEIVER
)
EVENTS = (ALERT_RAISED, ALERT_CLEARED, DELIVERY_FAILED, DELIVERY_RESTORED)

PACKETS = Counter("esper_telemetry_packets_total", "Telemetry packets taken.", ["source", "priority"])
TELEMETRY_EVENTS = Counter("esper_telemetry_events_total", "Events in telemetry.", ["source", "event", "level"])
# An alert waits for these: their series begin at 0, so that the first event is a rise.
for _source in ("kasmina", "tamiyo", "tolaria", "weatherlight"):
    TELEMETRY_EVENTS.labels(_source, "command_rejected", "critical")
FIELD_REPORTS = Counter("esper_field_reports_total", "Field reports taken.", ["outcome"])
INGEST_LATENCY = Histogram(
    "nissa_ingest_latency_ms",
    "Time to take one envelope.",
    ["type"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
)
REFUSED = Counter("nissa_envelopes_refused_total", "Envelopes whose signature or content could not be believed.")
