"""Weatherlight's metrics and events, and those of the bus it hosts. Each is declared here once."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

UPTIME = MetricSpec("weatherlight.uptime_s", "s", "Time since the service started.")
TASKS_RUNNING = MetricSpec("weatherlight.tasks.running", "count", "Background duties that are being done.")
TASKS_BACKING_OFF = MetricSpec("weatherlight.tasks.backing_off", "count", "Duties that failed and wait to begin anew.")
DUTY_RESTARTS = MetricSpec("weatherlight.tasks.restarts_total", "count", "Times that a duty began anew.", ("task",))
DUTY_BACKOFF = MetricSpec(
    "weatherlight.tasks.backoff_s", "s", "The pause that a duty is in, 0 while it works.", ("task",)
)
SERVICES_REGISTERED = MetricSpec("weatherlight.services.registered", "count", "Services in the registry.")
SERVICES_LOST = MetricSpec("weatherlight.services.lost", "count", "Registered services whose heartbeats are overdue.")
MODE = MetricSpec("weatherlight.mode", "enum", "Mode of the plane: 1 normal, 2 degraded, 3 emergency.")
PACKETS = MetricSpec("weatherlight.telemetry.packets_total", "count", "Telemetry packets taken.")
PACKETS_REFUSED = MetricSpec("weatherlight.telemetry.refused_total", "count", "Telemetry packets refused as invalid.")
PACKETS_DUPLICATE = MetricSpec("weatherlight.telemetry.duplicates_total", "count", "Packets that had arrived before.")
PACKETS_DROPPED = MetricSpec("weatherlight.telemetry.dropped_total", "count", "Packets that senders had to drop.")
CRITICAL_PACKETS = MetricSpec("weatherlight.emergency.telemetry_total", "count", "CRITICAL packets taken.")
EMERGENCIES_OPEN = MetricSpec("weatherlight.emergency.open", "count", "Emergencies that nobody has resolved.")
EMERGENCY_LEVEL = MetricSpec(
    "weatherlight.emergency.level", "enum", "Highest level of the open emergencies, 0 for none."
)
EMERGENCY_LATENCY = MetricSpec(
    "weatherlight.emergency.latency_ms", "ms", "Time from raising the last emergency to its arrival."
)
EMERGENCIES_RAISED = MetricSpec("weatherlight.emergency.detections_total", "count", "Emergencies entered.")
EMERGENCIES_OF_TAMIYO = MetricSpec("weatherlight.emergency.tamiyo_total", "count", "Emergencies that Tamiyo raised.")
EMERGENCIES_ACKNOWLEDGED = MetricSpec(
    "weatherlight.emergency.acknowledged_total", "count", "Acknowledgements of emergencies."
)
ROLLBACK_LATENCY = MetricSpec(
    "weatherlight.rollback.deadline_latency_ms", "ms", "Time that the last late rollback had taken when reported."
)

METRICS = (
    UPTIME,
    TASKS_RUNNING,
    TASKS_BACKING_OFF,
    DUTY_RESTARTS,
    DUTY_BACKOFF,
    SERVICES_REGISTERED,
    SERVICES_LOST,
    MODE,
    PACKETS,
    PACKETS_REFUSED,
    PACKETS_DUPLICATE,
    PACKETS_DROPPED,
    CRITICAL_PACKETS,
    EMERGENCIES_OPEN,
    EMERGENCY_LEVEL,
    EMERGENCY_LATENCY,
    EMERGENCIES_RAISED,
    EMERGENCIES_OF_TAMIYO,
    EMERGENCIES_ACKNOWLEDGED,
    ROLLBACK_LATENCY,
)

_INFO = TelemetryLevel.TELEMETRY_LEVEL_INFO
_WARNING = TelemetryLevel.TELEMETRY_LEVEL_WARNING
_ERROR = TelemetryLevel.TELEMETRY_LEVEL_ERROR
_CRITICAL = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL

SERVICE_REGISTERED = EventSpec("service_registered", _INFO, "A service entered the registry.", ("service", "instance"))
SERVICE_LEFT = EventSpec("service_left", _INFO, "A service took leave.", ("service", "instance"))
SERVICE_LOST = EventSpec("service_lost", _ERROR, "A service's heartbeats are overdue.", ("service", "instance"))
SERVICE_RETURNED = EventSpec("service_returned", _INFO, "A lost service was heard again.", ("service", "instance"))
MODE_CHANGED = EventSpec("mode_changed", _WARNING, "The plane's mode changed.", ("mode", "cause"))
EMERGENCY_RECEIVED = EventSpec(
    "emergency_signal_received", _CRITICAL, "An emergency was raised.", ("emergency_id", "level", "cause", "origin")
)
EMERGENCY_ACKNOWLEDGED = EventSpec(
    "emergency_acknowledged", _WARNING, "Someone has taken an emergency in hand.", ("emergency_id", "by", "resolved")
)
ROLLBACK_LATE = EventSpec(
    "rollback_deadline_triggered", _CRITICAL, "A rollback missed its deadline.", ("run", "step", "elapsed_ms")
)
COMMAND_REJECTED = EventSpec(
    "command_rejected",
    _CRITICAL,
    "A signed request was refused; `count` where one event tells of many.",
    ("method", "reason", "key_id", "count"),
)
WORKER_ERROR = EventSpec(
    "worker_error", _WARNING, "A background duty ended and begins anew after a pause.", ("task", "pause_s")
)

EVENTS = (
    WORKER_ERROR,
    SERVICE_REGISTERED,
    SERVICE_LEFT,
    SERVICE_LOST,
    SERVICE_RETURNED,
    MODE_CHANGED,
    EMERGENCY_RECEIVED,
    EMERGENCY_ACKNOWLEDGED,
    ROLLBACK_LATE,
    COMMAND_REJECTED,
)
