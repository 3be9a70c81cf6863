from __future__ import annotations

import pytest

from esper.core.priority import RANKS, lane_of, priority_of
from esper.leyline import BusLane, Event, MessagePriority, TelemetryLevel

LEVELS = TelemetryLevel


def events(*levels: TelemetryLevel) -> list[Event]:
    return [Event(level=level) for level in levels]


@pytest.mark.parametrize(
    ("levels", "priority", "lane"),
    [
        ([LEVELS.TELEMETRY_LEVEL_CRITICAL], "CRITICAL", "EMERGENCY"),
        ([LEVELS.TELEMETRY_LEVEL_ERROR], "HIGH", "TELEMETRY"),
        ([LEVELS.TELEMETRY_LEVEL_WARNING], "HIGH", "TELEMETRY"),
        ([LEVELS.TELEMETRY_LEVEL_INFO], "NORMAL", "TELEMETRY"),
        ([LEVELS.TELEMETRY_LEVEL_DEBUG], "LOW", "TELEMETRY"),
        ([LEVELS.TELEMETRY_LEVEL_DEBUG, LEVELS.TELEMETRY_LEVEL_WARNING], "HIGH", "TELEMETRY"),
        ([], "NORMAL", "TELEMETRY"),
    ],
)
def test_the_worst_event_decides_priority_and_lane(levels: list[TelemetryLevel], priority: str, lane: str) -> None:
    found = priority_of(events(*levels))
    assert MessagePriority.Name(found) == f"MESSAGE_PRIORITY_{priority}"
    assert BusLane.Name(lane_of(found)) == f"BUS_LANE_{lane}"


def test_every_level_but_unspecified_has_a_rank() -> None:
    assert {rank.level for rank in RANKS} == set(LEVELS.values()) - {0}


def test_only_what_is_critical_takes_the_emergency_lane() -> None:
    emergency = {rank.priority for rank in RANKS if rank.lane == BusLane.BUS_LANE_EMERGENCY}
    assert emergency == {MessagePriority.MESSAGE_PRIORITY_CRITICAL}
