"""Weatherlight's and the bus's RPCs at a real server: who may call, and what comes back."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import (
    AccessDenied,
    BackPressure,
    ContractError,
    DependencyViolationError,
    InvalidSignature,
    ServiceUnavailable,
)
from esper.core.telemetry import EventSpec, build_packet, event
from esper.leyline import (
    BusEnvelope,
    BusLane,
    ConsumeRequest,
    ConsumeResponse,
    FieldReport,
    HealthStatus,
    HeartbeatRequest,
    MessagePriority,
    PublishRequest,
    PublishTelemetryRequest,
    RegisterServiceRequest,
    RunClosure,
    SubscribeRequest,
    SystemMode,
    TelemetryLevel,
    TelemetryPacket,
    WatchModeRequest,
    WeatherlightServiceGetStatusRequest,
)
from esper.oona.bus import BusConfig
from esper.oona.envelope import seal
from esper.rpc.auth import service_metadata
from esper.rpc.clients.aio import AioChannel, BusClient, WeatherlightClient, aio_channel
from esper.rpc.server.server import Server, ServerConfig, start
from esper.weatherlight.bus_service import BusService
from esper.weatherlight.duties import Duties
from esper.weatherlight.service import WeatherlightService
from tests.unit.weatherlight.conftest import KEYRING, Plane

HEALTHY = HealthStatus.HEALTH_STATUS_HEALTHY
ALARM = EventSpec("test_alarm", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "An alarm.")


@pytest.fixture
async def server(plane: Plane) -> AsyncIterator[Server]:
    """Both services on a socket, over the plane's parts."""
    service = WeatherlightService(
        keyring=KEYRING,
        clock=plane.clock,
        bus=plane.bus,
        supervisor=plane.supervisor,
        actions=plane.actions,
        duties=Duties(),
        stop=lambda grace_s: None,
    )
    with tempfile.TemporaryDirectory(prefix="esper-") as directory:
        config = ServerConfig(listen=f"unix:{Path(directory) / 's'}")
        made = await start(config, [service, BusService(plane.bus, plane.router, KEYRING, plane.clock)])
        yield made
        await made.drain(0.1)


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[AioChannel]:
    async with aio_channel(server.endpoint) as made:
        yield made


def weatherlight(channel: AioChannel, service: str = "tamiyo") -> WeatherlightClient:
    return WeatherlightClient(channel, metadata=service_metadata(KEYRING, service))


def bus(channel: AioChannel) -> BusClient:
    return BusClient(channel, metadata=service_metadata(KEYRING, "tamiyo"))


def an_envelope(event_id: str) -> BusEnvelope:
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    closure = RunClosure(reason=event_id)
    return seal(KEYRING, SYSTEM_CLOCK, closure, source="tamiyo", lane=lane, priority=priority, event_id=event_id)


def register(service: str = "tamiyo") -> RegisterServiceRequest:
    return RegisterServiceRequest(service=service, instance="h:1", version="1")


async def test_nobody_without_a_token_learns_or_changes_anything(channel: AioChannel) -> None:
    client = WeatherlightClient(channel)
    with pytest.raises(AccessDenied, match="esper-service-token are required"):
        await client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=5)
    with pytest.raises(AccessDenied):
        await anext(client.watch_mode(WatchModeRequest(), timeout_s=5))
    with pytest.raises(AccessDenied):
        await anext(client.subscribe(SubscribeRequest(), timeout_s=5))
    with pytest.raises(AccessDenied):
        await BusClient(channel).publish(PublishRequest(envelopes=[an_envelope("a")]), timeout_s=5)


async def test_a_token_of_one_service_is_none_of_another(channel: AioChannel) -> None:
    token = service_metadata(KEYRING, "tamiyo")["esper-service-token"]
    impostor = WeatherlightClient(channel, metadata={"esper-service": "kasmina", "esper-service-token": token})
    with pytest.raises(
        AccessDenied, match="does not belong to service 'kasmina'; give it the secret or keyring of this plane"
    ):
        await impostor.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=5)


async def test_a_service_registers_and_beats_for_itself_only(channel: AioChannel) -> None:
    client = weatherlight(channel)
    answer = await client.register_service(register(), timeout_s=5)
    assert answer.heartbeat_interval.seconds == 2
    assert answer.mode.mode == SystemMode.SYSTEM_MODE_NORMAL
    beat = HeartbeatRequest(service="tamiyo", instance="h:1", health=HEALTHY)
    assert not (await client.heartbeat(beat, timeout_s=5)).is_unknown
    with pytest.raises(AccessDenied, match="about 'kasmina'"):
        await client.register_service(register("kasmina"), timeout_s=5)
    status = await client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=5)
    assert [(each.service, each.is_lost) for each in status.services] == [("tamiyo", False)]


async def test_telemetry_is_durable_when_it_is_answered(channel: AioChannel, plane: Plane) -> None:
    packet = build_packet("tamiyo", plane.clock, events=[event(ALARM, plane.clock)])

    async def batches() -> AsyncIterator[PublishTelemetryRequest]:
        yield PublishTelemetryRequest(packets=[packet, TelemetryPacket(packet_id="broken")], dropped=3)
        yield PublishTelemetryRequest(packets=[packet], dropped=0)

    answer = await weatherlight(channel).publish_telemetry(batches(), timeout_s=5)
    assert (answer.accepted, answer.refused, answer.duplicates) == (1, 1, 1)
    assert await plane.packets() == [packet]
    status = await weatherlight(channel).get_status(WeatherlightServiceGetStatusRequest(), timeout_s=5)
    assert (status.packets, status.critical, status.dropped) == (1, 1, 3)


async def test_the_status_is_told_while_the_bus_is_away(
    channel: AioChannel, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable() -> int:
        raise ServiceUnavailable("oona", "bus", "redis", "last position failed")

    monkeypatch.setattr(plane.bus, "last_sequence", unreachable)
    await weatherlight(channel).register_service(register(), timeout_s=5)
    status = await weatherlight(channel).get_status(WeatherlightServiceGetStatusRequest(), timeout_s=5)
    assert [each.service for each in status.services] == ["tamiyo"]
    assert not status.HasField("log_sequence")


async def test_a_full_lane_is_back_pressure_to_its_sender(channel: AioChannel, plane: Plane) -> None:
    packets = [build_packet("tamiyo", plane.clock) for _ in range(51)]

    async def batches() -> AsyncIterator[PublishTelemetryRequest]:
        yield PublishTelemetryRequest(packets=packets, dropped=0)

    with pytest.raises(BackPressure):
        await weatherlight(channel).publish_telemetry(batches(), timeout_s=5)


async def test_a_published_envelope_must_be_sealed(channel: AioChannel) -> None:
    forged = an_envelope("a")
    forged.payload = b"other"
    with pytest.raises(InvalidSignature):
        await bus(channel).publish(PublishRequest(envelopes=[forged]), timeout_s=5)


class Consumer:
    """One consumer: the test decides what it settles."""

    def __init__(self, channel: AioChannel, name: str, max_in_flight: int = 8) -> None:
        self._requests: asyncio.Queue[ConsumeRequest | None] = asyncio.Queue()
        lanes = [BusLane.BUS_LANE_NORMAL]
        self.say(ConsumeRequest(group="g", consumer=name, lanes=lanes, max_in_flight=max_in_flight))
        self._responses = bus(channel).consume(self._sent(), timeout_s=30)

    def say(self, request: ConsumeRequest | None) -> None:
        self._requests.put_nowait(request)

    async def next(self) -> tuple[str, int]:
        response: ConsumeResponse = await asyncio.wait_for(anext(self._responses), 10)
        return response.envelope.event_id, response.envelope.attempt

    async def leave(self) -> None:
        self.say(None)
        async for _ in self._responses:
            pass

    async def _sent(self) -> AsyncIterator[ConsumeRequest]:
        while (request := await self._requests.get()) is not None:
            yield request


async def test_a_consumer_gets_what_is_there_and_what_comes(channel: AioChannel) -> None:
    await bus(channel).publish(PublishRequest(envelopes=[an_envelope("a")]), timeout_s=5)
    consumer = Consumer(channel, "c1")
    assert await consumer.next() == ("a", 1)
    await bus(channel).publish(PublishRequest(envelopes=[an_envelope("b")]), timeout_s=5)
    assert await consumer.next() == ("b", 1)
    consumer.say(ConsumeRequest(acknowledged_event_ids=["a", "b"]))
    await consumer.leave()


async def test_no_more_than_it_can_hold_is_given_to_a_consumer(channel: AioChannel) -> None:
    await bus(channel).publish(PublishRequest(envelopes=[an_envelope(name) for name in "abc"]), timeout_s=5)
    consumer = Consumer(channel, "c1", max_in_flight=2)
    assert [await consumer.next(), await consumer.next()] == [("a", 1), ("b", 1)]
    consumer.say(ConsumeRequest(acknowledged_event_ids=["b"]))
    assert await consumer.next() == ("c", 1)
    await consumer.leave()


async def test_what_a_consumer_leaves_behind_goes_to_the_next(channel: AioChannel) -> None:
    await bus(channel).publish(PublishRequest(envelopes=[an_envelope(name) for name in "ab"]), timeout_s=5)
    first = Consumer(channel, "c1")
    assert [await first.next(), await first.next()] == [("a", 1), ("b", 1)]
    first.say(ConsumeRequest(acknowledged_event_ids=["a"]))
    await first.leave()
    second = Consumer(channel, "c2")
    assert await second.next() == ("b", 2)
    await second.leave()


async def test_telemetry_and_reports_that_are_none_do_not_come_onto_the_bus(channel: AioChannel, plane: Plane) -> None:
    lane, priority = BusLane.BUS_LANE_TELEMETRY, MessagePriority.MESSAGE_PRIORITY_NORMAL
    for payload, told in ((TelemetryPacket(packet_id="p"), "source is required"), (FieldReport(), "report_id is")):
        envelope = seal(KEYRING, SYSTEM_CLOCK, payload, source="tamiyo", lane=lane, priority=priority)
        with pytest.raises(ContractError, match=told):
            await bus(channel).publish(PublishRequest(envelopes=[envelope]), timeout_s=5)
    torn = seal(KEYRING, SYSTEM_CLOCK, _Torn(), source="tamiyo", lane=lane, priority=priority)
    with pytest.raises(ContractError, match="can't be read"):
        await bus(channel).publish(PublishRequest(envelopes=[torn]), timeout_s=5)
    assert await plane.packets() == []


class _Torn:
    """Says that it is telemetry."""

    DESCRIPTOR = TelemetryPacket.DESCRIPTOR

    def SerializeToString(self) -> bytes:
        return b"\xff"


DEAD = BusLane.BUS_LANE_DEAD_LETTERS


async def put_aside(plane: Plane, *names: str, group: str = "g") -> None:
    """Dead letters of the group: they were rejected as often as may be."""
    await plane.bus.publish([an_envelope(name) for name in names])
    for _ in range(BusConfig().max_deliveries):
        await plane.bus.fetch(group, "c1", [BusLane.BUS_LANE_NORMAL], 10)
        await plane.bus.reject(group, names)
        plane.clock.advance(60.0)
    assert await plane.bus.fetch(group, "c1", [BusLane.BUS_LANE_NORMAL], 10) == []


async def letters(channel: AioChannel, group: str, *settled: ConsumeRequest) -> list[tuple[str, str]]:
    async def requests() -> AsyncIterator[ConsumeRequest]:
        for request in (ConsumeRequest(group=group, consumer="c", lanes=[DEAD]), *settled):
            yield request

    found = [told async for told in bus(channel).consume(requests(), timeout_s=10)]
    assert all(told.HasField("put_aside_at") for told in found)
    return [(told.refused_by, told.envelope.event_id) for told in found]


async def test_dead_letters_are_looked_at_dropped_and_requeued(channel: AioChannel, plane: Plane) -> None:
    await put_aside(plane, "a", "b", "c")
    assert await letters(channel, "*") == [("g", "a"), ("g", "b"), ("g", "c")]
    assert await letters(channel, "other") == []
    settled = ConsumeRequest(acknowledged_event_ids=["a"], rejected_event_ids=["c"])
    assert len(await letters(channel, "g", settled)) == 3
    assert await letters(channel, "g") == [("g", "b")]
    consumer = Consumer(channel, "c1")
    assert await consumer.next() == ("c", 1)
    await consumer.leave()


async def test_what_is_no_dead_letter_is_told_and_the_others_are_settled(channel: AioChannel, plane: Plane) -> None:
    await put_aside(plane, "a", "b")
    with pytest.raises(DependencyViolationError, match="dead letter of group g"):
        await letters(channel, "g", ConsumeRequest(acknowledged_event_ids=["a", "typo"]))
    with pytest.raises(ContractError, match="only looks"):
        await letters(channel, "*", ConsumeRequest(acknowledged_event_ids=["b"]))
    assert await letters(channel, "*") == [("g", "b")]


async def test_nothing_is_published_among_the_dead_letters(channel: AioChannel) -> None:
    envelope = seal(KEYRING, SYSTEM_CLOCK, RunClosure(), source="tamiyo", lane=DEAD, priority=1, event_id="a")
    with pytest.raises(ContractError, match="nothing is published on BUS_LANE_DEAD_LETTERS"):
        await bus(channel).publish(PublishRequest(envelopes=[envelope]), timeout_s=5)


async def test_a_consumer_that_comes_back_gets_at_once_what_it_held(channel: AioChannel, plane: Plane) -> None:
    """Its old line may be thought alive for long."""
    await bus(channel).publish(PublishRequest(envelopes=[an_envelope("a")]), timeout_s=5)
    await plane.bus.fetch("g", "c1", [BusLane.BUS_LANE_NORMAL], 10)
    consumer = Consumer(channel, "c1")
    assert await consumer.next() == ("a", 2)
    await consumer.leave()


async def test_who_follows_gets_what_stands_after_a_position_and_the_bus_keeps_no_account(
    channel: AioChannel, plane: Plane
) -> None:
    stored = await bus(channel).publish(PublishRequest(envelopes=[an_envelope(name) for name in "abc"]), timeout_s=5)
    lanes = [BusLane.BUS_LANE_NORMAL]
    opening = ConsumeRequest(consumer="c", lanes=lanes, after_sequence=stored.sequences[0])

    async def requests() -> AsyncIterator[ConsumeRequest]:
        yield opening

    for _ in range(2):
        responses = bus(channel).consume(requests(), timeout_s=30)
        assert [(await anext(responses)).envelope.event_id for _ in range(2)] == ["b", "c"]
    await bus(channel).publish(PublishRequest(envelopes=[an_envelope("d")]), timeout_s=5)
    assert (await asyncio.wait_for(anext(responses), 10)).envelope.event_id == "d"
    assert await plane.bus.depth(BusLane.BUS_LANE_NORMAL) == 0, "no group waits for anything"


@pytest.mark.parametrize(
    "opening",
    [
        ConsumeRequest(group="g", consumer="c", lanes=[BusLane.BUS_LANE_NORMAL], after_sequence=0),
        ConsumeRequest(lanes=[BusLane.BUS_LANE_NORMAL], after_sequence=0),
        ConsumeRequest(consumer="c", lanes=[DEAD], after_sequence=0),
        ConsumeRequest(group="g", consumer="c", lanes=[DEAD, BusLane.BUS_LANE_NORMAL]),
        ConsumeRequest(consumer="c", lanes=[BusLane.BUS_LANE_NORMAL]),
        ConsumeRequest(group="g", lanes=[BusLane.BUS_LANE_NORMAL]),
        ConsumeRequest(group="g", consumer="c"),
        ConsumeRequest(group="g", consumer="c", lanes=[BusLane.BUS_LANE_UNSPECIFIED]),
    ],
)
async def test_a_consumer_must_say_who_it_is_and_what_it_wants(channel: AioChannel, opening: ConsumeRequest) -> None:
    async def requests() -> AsyncIterator[ConsumeRequest]:
        yield opening

    with pytest.raises(ContractError, match=r"first message|lanes|one of them"):
        await anext(bus(channel).consume(requests(), timeout_s=5))
