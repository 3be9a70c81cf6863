"""Telemetry's way onto the bus: judged, stored once, the urgent first, and given to subscribers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from esper.core.errors import BackPressure
from esper.core.messages.validation import violations
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import (
    BusLane,
    MessagePriority,
    SubscribeRequest,
    TelemetryLevel,
    TelemetryPacket,
    TraceContext,
)
from esper.oona.bus import MIB, BusConfig
from esper.oona.envelope import check, seal
from esper.oona.log import SqliteLog
from esper.weatherlight.routing import TELEMETRY_LANES, Router
from tests.unit.oona.buses import NORMAL_LANE, an_envelope
from tests.unit.weatherlight.conftest import KEYRING, Plane

LOSS = MetricSpec("test.loss", "nats", "A loss.")
ALARM = EventSpec("test_alarm", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "An alarm.")
WARNING = EventSpec("test_warning", TelemetryLevel.TELEMETRY_LEVEL_WARNING, "A warning.")
LANES = (BusLane.BUS_LANE_EMERGENCY, BusLane.BUS_LANE_TELEMETRY)


def ordinary(plane: Plane, source: str = "tolaria") -> TelemetryPacket:
    return build_packet(source, plane.clock, metrics=[metric(LOSS, 1.0)])


def critical(plane: Plane) -> TelemetryPacket:
    return build_packet("tolaria", plane.clock, events=[event(ALARM, plane.clock)])


async def test_a_packet_travels_in_the_lane_of_its_priority_sealed(plane: Plane) -> None:
    await plane.router.take([ordinary(plane), critical(plane)])
    by_lane = {envelope.lane: envelope for envelope in await plane.bus.read(LANES, 0, 10)}
    assert by_lane[BusLane.BUS_LANE_EMERGENCY].priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL
    assert by_lane[BusLane.BUS_LANE_TELEMETRY].source == "tolaria"
    for envelope in by_lane.values():
        check(KEYRING, envelope, plane.clock.now_ns())


async def test_what_arrives_twice_is_stored_once(plane: Plane) -> None:
    packet = ordinary(plane)
    first = await plane.router.take([packet])
    second = await plane.router.take([packet, packet])
    assert (first.accepted, first.duplicates) == (1, 0)
    assert (second.accepted, second.duplicates) == (0, 2)
    assert len(await plane.packets()) == 1


async def test_an_invalid_packet_is_refused_and_the_rest_taken(plane: Plane) -> None:
    taken = await plane.router.take([TelemetryPacket(packet_id="x"), ordinary(plane)])
    assert (taken.accepted, taken.refused) == (1, 1)
    assert plane.router.counts.refused == 1


async def test_a_full_lane_pushes_back_but_takes_every_critical_packet(plane: Plane) -> None:
    await plane.router.take([ordinary(plane) for _ in range(50)])
    alarm = critical(plane)
    with pytest.raises(BackPressure):
        await plane.router.take([ordinary(plane), alarm])
    stored = await plane.bus.read([BusLane.BUS_LANE_EMERGENCY], 0, 10)
    assert [envelope.event_id for envelope in stored] == [alarm.packet_id]
    assert plane.router.counts.turned_away == 1


async def test_a_lane_that_is_full_of_what_was_handled_takes_more(plane: Plane, tmp_path: Path) -> None:
    config = BusConfig(max_lane_entries=50, max_kept_entries=5)
    bus = SqliteLog(tmp_path / "other.db", plane.clock, config)
    router = Router(bus, KEYRING, plane.clock)
    await router.take([ordinary(plane) for _ in range(50)])
    await bus.fetch("g", "c", LANES, 1)
    with pytest.raises(BackPressure):
        await router.take([ordinary(plane)])
    handled = [each.event_id for each in await bus.fetch("g", "c", LANES, 49)]
    await bus.acknowledge("g", handled)
    assert (await router.take([ordinary(plane)])).accepted == 1
    assert router.counts.turned_away == 1
    await bus.close()


async def test_a_lane_whose_bytes_were_handled_takes_more(plane: Plane, tmp_path: Path) -> None:
    bus = SqliteLog(tmp_path / "other.db", plane.clock, BusConfig(max_lane_bytes=16 * MIB))
    router = Router(bus, KEYRING, plane.clock)
    await router.publish([an_envelope(f"e{number}", more_bytes=4 * MIB - 1000) for number in range(4)])
    await bus.fetch("g", "c", [NORMAL_LANE], 1)
    with pytest.raises(BackPressure):
        await router.publish([an_envelope("more", more_bytes=4 * MIB - 1000)])
    await bus.fetch("g", "c", [NORMAL_LANE], 10)
    await bus.acknowledge("g", [f"e{number}" for number in range(4)])
    assert len(await router.publish([an_envelope("more", more_bytes=4 * MIB - 1000)])) == 1
    assert (router.counts.published, router.counts.turned_away) == (5, 1)
    await bus.close()


async def test_a_subscriber_gets_what_it_asked_for_as_it_arrives(plane: Plane) -> None:
    await plane.router.take([ordinary(plane)])
    request = SubscribeRequest(min_priority=MessagePriority.MESSAGE_PRIORITY_HIGH, sources=["tolaria"])
    packets = plane.router.subscribe(request)
    coming = asyncio.ensure_future(anext(packets))
    await asyncio.sleep(0)
    warning = build_packet("tolaria", plane.clock, events=[event(WARNING, plane.clock)])
    elsewhere = build_packet("tamiyo", plane.clock, events=[event(WARNING, plane.clock)])
    await plane.router.take([ordinary(plane), elsewhere, warning])
    packet, sequence = await asyncio.wait_for(coming, 10)
    assert packet == warning
    assert sequence == 4
    await packets.aclose()


async def test_a_subscriber_rests_while_other_lanes_are_busy(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    read = plane.bus.read

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    monkeypatch.setattr(plane.bus, "read", counted)
    packets = plane.router.subscribe(SubscribeRequest())
    coming = asyncio.ensure_future(anext(packets))
    await asyncio.sleep(0)
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    for _ in range(3):
        envelope = seal(KEYRING, plane.clock, ordinary(plane), source="tamiyo", lane=lane, priority=priority)
        await plane.router.publish([envelope])
    await plane.router.take([ordinary(plane)])
    await asyncio.wait_for(coming, 10)
    assert reads <= 6
    await packets.aclose()


async def test_a_lane_that_a_forgotten_group_holds_is_freed_and_the_loss_is_told(tmp_path: Path, plane: Plane) -> None:
    told: list[TelemetryPacket] = []
    config = BusConfig(max_lane_entries=3, full_lane_patience_s=50.0, retention_s=10.0)
    bus = SqliteLog(tmp_path / "small.db", plane.clock, config)
    router = Router(bus, KEYRING, plane.clock, tell=told.append)
    await router.take([ordinary(plane) for _ in range(3)])
    assert len(await bus.fetch("gone", "c1", TELEMETRY_LANES, 1)) == 1
    plane.clock.advance(20.0)
    with pytest.raises(BackPressure):
        await router.take([ordinary(plane)])
    assert not told
    plane.clock.advance(40.0)
    assert (await router.take([ordinary(plane)])).accepted == 1
    (event,) = told[0].events
    assert (
        event.message == "group 'gone' asked for nothing for too long: 3 envelopes that it had not handled are let go"
    )
    assert violations(told[0]) == []
    assert router.counts.lost == {"gone": 3}
    assert await router.tidy() == 0
    await bus.close()


async def test_a_subscriber_can_start_in_the_past(plane: Plane) -> None:
    await plane.router.take([ordinary(plane) for _ in range(3)])
    packets = plane.router.subscribe(SubscribeRequest(after_sequence=1))
    assert [(await anext(packets))[1] for _ in range(2)] == [2, 3]
    await packets.aclose()


async def test_a_traced_packet_hands_its_trace_on(plane: Plane) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    packet = ordinary(plane)
    packet.trace.CopyFrom(TraceContext(traceparent=parent))
    await plane.router.take([packet])
    (envelope,) = await plane.bus.read(LANES, 0, 10)
    assert envelope.trace.traceparent.split("-")[1] == parent.split("-")[1]
    assert trace.get_current_span() is trace.INVALID_SPAN
