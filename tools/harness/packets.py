"""Telemetry of a run as it arrived on its bus, and the events in it that a scenario doesn't expect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from esper.core.enums import short_name
from esper.core.storage.read_only import looked_at
from esper.core.telemetry import attribute_value
from esper.leyline import BusEnvelope, Event, MessagePriority, Metric, TelemetryLevel, TelemetryPacket

Packet = dict[str, Any]
TOLERATED = frozenset(
    {
        *("gate_failure", "growth_ended"),  # a seed may be refused
        # Time is what is measured: on a loaded machine some of it is long.
        *("hook_budget", "step_latency_high", "cpu_pressure_high", "device_pressure_high"),
        *("epoch_hook_latency_high", "tolaria.epoch_budget_exceeded"),
    }
)
"""Events of WARNING that any run may have."""
_ROWS = "SELECT envelope FROM envelopes ORDER BY sequence"


def arrived(run_dir: Path) -> list[Packet]:
    """Every telemetry packet on the bus of a run that is over, as they were made: urgent ones overtake others."""
    with looked_at(run_dir / "services" / "oona.db") as connection:
        envelopes = [BusEnvelope.FromString(raw) for (raw,) in connection.execute(_ROWS)]
    kind = TelemetryPacket.DESCRIPTOR.full_name
    packets = [TelemetryPacket.FromString(each.payload) for each in envelopes if each.payload_type == kind]
    return [_told(packet) for packet in sorted(packets, key=lambda packet: packet.time.ToNanoseconds())]


def _told(packet: TelemetryPacket) -> Packet:
    return {
        "source": packet.source,
        "step": packet.step,
        "priority": short_name(MessagePriority, packet.priority),
        "metrics": {_name(metric): metric.value for metric in packet.metrics},
        "events": [_event(event) for event in packet.events],
    }


def _name(metric: Metric) -> str:
    """With its labels, as Prometheus writes them."""
    labels = ",".join(f"{label.key}={attribute_value(label)}" for label in metric.attributes)
    return f"{metric.name}{{{labels}}}" if labels else metric.name


def _event(event: Event) -> dict[str, Any]:
    attributes: Mapping[str, Any] = {label.key: attribute_value(label) for label in event.attributes}
    level = short_name(TelemetryLevel, event.level)
    return {"name": event.name, "level": level, "message": event.message, "attributes": dict(attributes)}


def last(packets: Iterable[Packet], metric: str, default: float = 0.0) -> float:
    """The newest value of a metric."""
    values = [packet["metrics"][metric] for packet in packets if metric in packet["metrics"]]
    return values[-1] if values else default


def names_of(packets: Iterable[Packet]) -> set[str]:
    """Names of all events, and of the notices that stand in them."""
    return {name for packet in packets for event in packet["events"] for name in _names(event)}


def unexpected(packets: Iterable[Packet], expected: Collection[str]) -> Iterator[str]:
    """A line for each kind of event of WARNING or worse that isn't expected."""
    known = TOLERATED | set(expected)
    for packet in packets:
        for event in packet["events"]:
            names = _names(event)
            if event["level"] not in ("INFO", "DEBUG") and not names & known:
                known |= names
                yield f"unexpected {event['level']} {'/'.join(sorted(names))} of {packet['source']}: {event['message']}"


def _names(event: dict[str, Any]) -> set[str]:
    own = event["attributes"].get("name")
    return {event["name"], own} if own else {event["name"]}
