"""The one priority rule: level of the worst event -> priority -> lane. Computed once, then carried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from esper.leyline import BusLane, Event, MessagePriority, TelemetryLevel


@dataclass(frozen=True, slots=True)
class Rank:
    """What a level means for delivery."""

    level: TelemetryLevel
    priority: MessagePriority
    lane: BusLane


RANKS: tuple[Rank, ...] = (
    Rank(
        TelemetryLevel.TELEMETRY_LEVEL_CRITICAL,
        MessagePriority.MESSAGE_PRIORITY_CRITICAL,
        BusLane.BUS_LANE_EMERGENCY,
    ),
    Rank(TelemetryLevel.TELEMETRY_LEVEL_ERROR, MessagePriority.MESSAGE_PRIORITY_HIGH, BusLane.BUS_LANE_TELEMETRY),
    Rank(TelemetryLevel.TELEMETRY_LEVEL_WARNING, MessagePriority.MESSAGE_PRIORITY_HIGH, BusLane.BUS_LANE_TELEMETRY),
    Rank(TelemetryLevel.TELEMETRY_LEVEL_INFO, MessagePriority.MESSAGE_PRIORITY_NORMAL, BusLane.BUS_LANE_TELEMETRY),
    Rank(TelemetryLevel.TELEMETRY_LEVEL_DEBUG, MessagePriority.MESSAGE_PRIORITY_LOW, BusLane.BUS_LANE_TELEMETRY),
)

PRIORITY_WITHOUT_EVENTS = MessagePriority.MESSAGE_PRIORITY_NORMAL

_PRIORITIES = {rank.level: rank.priority for rank in RANKS}
_LANES = {rank.priority: rank.lane for rank in RANKS}


def priority_of(events: Iterable[Event]) -> MessagePriority:
    """Priority of a packet with these events: the worst event's."""
    return max((_PRIORITIES[event.level] for event in events), default=PRIORITY_WITHOUT_EVENTS)


def lane_of(priority: MessagePriority) -> BusLane:
    """The telemetry lane that a priority travels on."""
    return _LANES[priority]
