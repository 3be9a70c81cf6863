"""Nissa's metrics and events. Each is declared here once."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

ALERTS_ACTIVE = MetricSpec("nissa.alerts.active", "count", "Alerts that are raised now.")
SERIES_EVICTED = MetricSpec("nissa.series.evicted_total", "count", "Series that made room for newer ones.")
METRICS = (ALERTS_ACTIVE, SERIES_EVICTED)

ALERT_RAISED = EventSpec(
    "alert_raised",
    TelemetryLevel.TELEMETRY_LEVEL_WARNING,
    "A rule's condition held for as long as it asks.",
    ("rule", "source", "value", "threshold", "severity", "routes"),
)
ALERT_CLEARED = EventSpec(
    "alert_cleared",
    TelemetryLevel.TELEMETRY_LEVEL_INFO,
    "A raised alert's condition ended.",
    ("rule", "source", "value"),
)
EVENTS = (ALERT_RAISED, ALERT_CLEARED)

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
