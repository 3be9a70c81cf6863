"""Nissa follows the bus: packets become series and counters, alerts become packets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from esper.core.clock import ManualClock
from esper.core.priority import lane_of
from esper.core.security.keys import Key, Keyring, KeySet
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import BusEnvelope, BusLane, FieldReport, MessagePriority, TelemetryLevel, TelemetryPacket
from esper.nissa.ingest import GROUP, Ingestor
from esper.nissa.rules import QUIET_S
from esper.oona.envelope import seal
from esper.oona.log import SqliteLog
from esper.oona.redis import RedisBus

KEYRING = Keyring.from_secret("test-secret-0123456789-abcdefghijklm")
VIOLATIONS = MetricSpec("kasmina.isolation.violations", "count", "Leaks.")
REJECTED = EventSpec("command_rejected", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "Refused.", ("reason",))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def told() -> list[TelemetryPacket]:
    return []


@pytest.fixture
def nissa(clock: ManualClock, told: list[TelemetryPacket]) -> Ingestor:
    return Ingestor(KEYRING, clock, told.append)


def sealed(packet: TelemetryPacket, clock: ManualClock) -> BusEnvelope:
    lane = lane_of(packet.priority)
    return seal(KEYRING, clock, packet, source=packet.source, lane=lane, priority=packet.priority)


def leaks(clock: ManualClock, count: float) -> TelemetryPacket:
    return build_packet("kasmina", clock, metrics=[metric(VIOLATIONS, count)], run="r1")


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_critical_packets_are_counted_by_source_and_priority(nissa: Ingestor, clock: ManualClock) -> None:
    before = sample("esper_telemetry_packets_total", source="kasmina", priority="critical")
    packet = build_packet("kasmina", clock, events=[event(REJECTED, clock, reason="NONCE_REPLAYED")])
    nissa.take(sealed(packet, clock))
    assert sample("esper_telemetry_packets_total", source="kasmina", priority="critical") == before + 1
    assert sample("esper_telemetry_events_total", source="kasmina", event="command_rejected", level="critical") >= 1


def test_an_alert_is_told_when_it_rises_and_when_it_clears(
    nissa: Ingestor, clock: ManualClock, told: list[TelemetryPacket]
) -> None:
    for count in (0.0, 5.0, 5.0, 0.0):
        nissa.take(sealed(leaks(clock, count), clock))
    assert [packet.events[0].name for packet in told] == ["alert_raised", "alert_cleared"]
    risen = {attribute.key: attribute for attribute in told[0].events[0].attributes}
    assert risen["rule"].text == "kasmina_isolation_violation"
    assert (risen["value"].real, risen["threshold"].real) == (5.0, 0.0)
    assert (told[0].source, told[0].training_run_id) == ("nissa", "r1")


def test_an_envelope_that_cannot_be_believed_is_counted_and_left(nissa: Ingestor, clock: ManualClock) -> None:
    before = sample("nissa_envelopes_refused_total")
    forged = sealed(leaks(clock, 5.0), clock)
    forged.signature = "0" * 64
    nissa.take(forged)
    broken = seal(
        KEYRING,
        clock,
        TelemetryPacket(packet_id="incomplete"),
        source="kasmina",
        lane=BusLane.BUS_LANE_TELEMETRY,
        priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
    )
    nissa.take(broken)
    assert sample("nissa_envelopes_refused_total") == before + 2
    assert not nissa.alerts.standing


def test_what_a_bus_vouches_for_is_taken_after_its_key_has_ended_and_nothing_else(clock: ManualClock) -> None:
    key = Key(key_id="k1", secret="test-secret-0123456789-abcdefghijklm", accepted_until_ns=clock.now_ns())
    keys = Keyring(KeySet(active="k2", keys=(key, Key(key_id="k2", secret="next-secret-0123456789-abcdefghijkl"))))
    nissa, kept = Ingestor(keys, clock, lambda packet: None), sealed(leaks(clock, 5.0), clock)
    clock.advance(60.0)
    before = sample("nissa_envelopes_refused_total")
    nissa.take(kept)
    assert (sample("nissa_envelopes_refused_total"), nissa.alerts.standing) == (before + 1, [])
    nissa.take(kept, is_vouched_for=True)
    assert nissa.alerts.standing
    assert (SqliteLog.vouches, RedisBus.vouches) == (True, False)


def test_other_messages_on_the_bus_are_none_of_its_business(nissa: Ingestor, clock: ManualClock) -> None:
    assert FieldReport.DESCRIPTOR.full_name == "esper.leyline.v1.FieldReport"
    before = sample("nissa_envelopes_refused_total")
    envelope = sealed(leaks(clock, 5.0), clock)
    envelope.payload_type = "esper.leyline.v1.PolicyUpdate"
    nissa.take(envelope)
    assert sample("nissa_envelopes_refused_total") == before


async def test_an_alert_about_events_clears_by_time_alone(
    nissa: Ingestor, clock: ManualClock, told: list[TelemetryPacket]
) -> None:
    nissa.take(sealed(build_packet("kasmina", clock, events=[event(REJECTED, clock)], run="r1"), clock))
    following = asyncio.create_task(nissa.follow_time(0.01))
    clock.advance(QUIET_S)
    async with asyncio.timeout(10):
        while len(told) < 2:
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    (cleared,) = told[1].events
    assert (cleared.name, cleared.message) == ("alert_cleared", "no command_rejected for 300 s")
    assert told[1].training_run_id == "r1"


async def test_it_follows_every_lane_and_acknowledges_what_it_took(
    nissa: Ingestor, clock: ManualClock, told: list[TelemetryPacket], tmp_path: Path
) -> None:
    bus = SqliteLog(tmp_path / "oona.db", clock)
    following = asyncio.create_task(nissa.run(bus))
    critical = build_packet("kasmina", clock, events=[event(REJECTED, clock, reason="STALE")])
    await bus.publish([sealed(critical, clock), sealed(leaks(clock, 5.0), clock)])
    async with asyncio.timeout(10):
        while not told or await bus.depth(BusLane.BUS_LANE_TELEMETRY) or await bus.depth(BusLane.BUS_LANE_EMERGENCY):
            await asyncio.sleep(0.01)
    assert await bus.fetch(GROUP, GROUP, [BusLane.BUS_LANE_EMERGENCY, BusLane.BUS_LANE_TELEMETRY], 10) == []
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await bus.close()
