"""A sender against a real server: what it sends arrives, in outages too, and it takes leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK, duration, timestamp
from esper.core.errors import BackPressure
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import (
    AcknowledgeEmergencyRequest,
    AcknowledgeEmergencyResponse,
    DrainRequest,
    DrainResponse,
    HealthStatus,
    HeartbeatRequest,
    HeartbeatResponse,
    ModeUpdate,
    PublishTelemetryRequest,
    PublishTelemetryResponse,
    RaiseEmergencyRequest,
    RaiseEmergencyResponse,
    RegisterServiceRequest,
    RegisterServiceResponse,
    SignalRollbackDeadlineRequest,
    SignalRollbackDeadlineResponse,
    SubscribeRequest,
    SubscribeResponse,
    SystemMode,
    TelemetryLevel,
    TelemetryPacket,
    WatchModeRequest,
    WatchModeResponse,
    WeatherlightServiceGetStatusRequest,
    WeatherlightServiceGetStatusResponse,
)
from esper.rpc.auth import require_service
from esper.rpc.reporting.telemetry import LogReporter, SenderConfig, TelemetrySender
from esper.rpc.server.bases import WeatherlightServicer
from esper.rpc.server.call import Call
from tests.unit.rpc.conftest import Serve
from tests.unit.rpc.scripted import KEYRING

LOSS = MetricSpec("test.loss", "nats", "A loss.")
ALARM = EventSpec("test_alarm", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "An alarm.", ("seed_id",))
QUICK = SenderConfig(capacity=8, flush_s=0.01, retry_s=0.05, max_retry_s=0.1, timeout_s=2.0)


class Listener(WeatherlightServicer):
    """A Weatherlight that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[TelemetryPacket] = []
        self.dropped = 0
        self.registered: list[RegisterServiceRequest] = []
        self.beats: list[HeartbeatRequest] = []
        self.forgets = False
        self.refusals = 0
        self.modes: asyncio.Queue[SystemMode] = asyncio.Queue()
        self.changed = asyncio.Event()

    def _mode(self, mode: SystemMode = SystemMode.SYSTEM_MODE_NORMAL) -> ModeUpdate:
        return ModeUpdate(mode=mode, cause="test", since=timestamp(0))

    async def register_service(self, request: RegisterServiceRequest, call: Call) -> RegisterServiceResponse:
        assert require_service(call, KEYRING) == request.service
        self.registered.append(request)
        self.changed.set()
        return RegisterServiceResponse(heartbeat_interval=duration(0.01), mode=self._mode())

    async def heartbeat(self, request: HeartbeatRequest, call: Call) -> HeartbeatResponse:
        self.beats.append(request)
        self.changed.set()
        return HeartbeatResponse(mode=self._mode(), is_unknown=self.forgets)

    async def publish_telemetry(
        self, requests: AsyncIterator[PublishTelemetryRequest], call: Call
    ) -> PublishTelemetryResponse:
        async for request in requests:
            if self.refusals:
                self.refusals -= 1
                raise BackPressure("full", 0.1)
            self.heard += request.packets
            self.dropped += request.dropped
        self.changed.set()
        return PublishTelemetryResponse(accepted=len(self.heard), refused=0, duplicates=0)

    async def watch_mode(self, request: WatchModeRequest, call: Call) -> AsyncIterator[WatchModeResponse]:
        while True:
            yield WatchModeResponse(mode=self._mode(await self.modes.get()))

    async def subscribe(self, request: SubscribeRequest, call: Call) -> AsyncIterator[SubscribeResponse]:
        for packet in self.heard:
            yield SubscribeResponse(packet=packet, sequence=1)

    async def get_status(
        self, request: WeatherlightServiceGetStatusRequest, call: Call
    ) -> WeatherlightServiceGetStatusResponse:
        return WeatherlightServiceGetStatusResponse(packets=len(self.heard))

    async def raise_emergency(self, request: RaiseEmergencyRequest, call: Call) -> RaiseEmergencyResponse:
        return RaiseEmergencyResponse(mode=self._mode())

    async def signal_rollback_deadline(
        self, request: SignalRollbackDeadlineRequest, call: Call
    ) -> SignalRollbackDeadlineResponse:
        return SignalRollbackDeadlineResponse(mode=self._mode())

    async def acknowledge_emergency(
        self, request: AcknowledgeEmergencyRequest, call: Call
    ) -> AcknowledgeEmergencyResponse:
        return AcknowledgeEmergencyResponse(mode=self._mode())

    async def drain(self, request: DrainRequest, call: Call) -> DrainResponse:
        return DrainResponse()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; it is looked at after every call."""
        async with asyncio.timeout(15):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def ordinary(value: float = 1.0) -> TelemetryPacket:
    return build_packet("tolaria", SYSTEM_CLOCK, metrics=[metric(LOSS, value)])


def critical() -> TelemetryPacket:
    return build_packet("tolaria", SYSTEM_CLOCK, events=[event(ALARM, SYSTEM_CLOCK, "leak", seed_id="s1")])


async def closed(sender: TelemetrySender, timeout_s: float = 5.0) -> None:
    await asyncio.to_thread(sender.close, timeout_s)


async def test_it_registers_beats_publishes_and_takes_leave(serve: Serve) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", endpoint_served="unix:/t", config=QUICK)
    sender.report_health(HealthStatus.HEALTH_STATUS_DEGRADED, "no Tamiyo")
    sent = [ordinary(), ordinary(), critical()]
    for packet in sent:
        sender.send(packet)
    await listener.until(lambda: len(listener.heard) == 3 and len(listener.beats) >= 1)
    await closed(sender)
    assert {packet.packet_id for packet in listener.heard} == {packet.packet_id for packet in sent}
    (registration,) = listener.registered
    assert (registration.service, registration.endpoint) == ("tolaria", "unix:/t")
    assert listener.beats[0].summary == "no Tamiyo"
    assert [beat.is_leaving for beat in listener.beats] == [False] * (len(listener.beats) - 1) + [True]


async def test_what_waits_is_sent_at_the_close(serve: Serve) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=SenderConfig(flush_s=60.0))
    for number in range(600):
        sender.send(ordinary(number))
    await closed(sender)
    assert [packet.metrics[0].value for packet in listener.heard] == list(range(600))
    assert sender.pending == 0


async def test_a_critical_packet_does_not_wait_for_its_turn(serve: Serve) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=SenderConfig(flush_s=3600.0))
    sender.send(critical())
    await listener.until(lambda: len(listener.heard) == 1)
    await closed(sender)


async def test_an_outage_costs_the_oldest_ordinary_packets_and_no_critical_one(serve: Serve, socket_dir: Path) -> None:
    listen = f"unix:{socket_dir}/late"
    sender = TelemetrySender(listen, KEYRING, "tolaria", config=QUICK)
    alarms = [critical() for _ in range(20)]
    for alarm in alarms:
        sender.send(alarm)
        sender.send(ordinary())
    listener = Listener()
    await serve(listener, listen=listen)
    await listener.until(lambda: len(listener.heard) + listener.dropped >= 40)
    await closed(sender)
    assert {alarm.packet_id for alarm in alarms} <= {packet.packet_id for packet in listener.heard}
    assert listener.dropped == sender.dropped == 12


async def test_what_was_not_taken_is_sent_again_in_its_order(serve: Serve) -> None:
    listener = Listener()
    listener.refusals = 3
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    for number in range(5):
        sender.send(ordinary(number))
    await listener.until(lambda: len(listener.heard) == 5)
    await closed(sender)
    assert [packet.metrics[0].value for packet in listener.heard] == [0, 1, 2, 3, 4]
    assert listener.dropped == 0


async def test_a_restarted_weatherlight_hears_of_the_service_again(serve: Serve) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    listener.forgets = True
    await listener.until(lambda: len(listener.registered) >= 2)
    await closed(sender)


async def test_the_mode_is_followed_and_unknown_while_it_cannot_be_heard(serve: Serve) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    assert sender.plane.mode == SystemMode.SYSTEM_MODE_UNSPECIFIED
    for mode in (SystemMode.SYSTEM_MODE_DEGRADED, SystemMode.SYSTEM_MODE_NORMAL):
        listener.modes.put_nowait(mode)
        await reached(lambda mode=mode: sender.plane.mode == mode)
    await server.drain(0.1)
    await reached(lambda: sender.plane.mode == SystemMode.SYSTEM_MODE_UNSPECIFIED)
    await closed(sender)


class Stuck(Listener):
    """A Weatherlight whose stream tells one mode and no other, and which counts two packets too few."""

    since_s = 0

    def _mode(self, mode: SystemMode = SystemMode.SYSTEM_MODE_NORMAL) -> ModeUpdate:
        told = SystemMode.SYSTEM_MODE_EMERGENCY if self.since_s else mode
        return ModeUpdate(mode=told, cause="test", since=timestamp(self.since_s * 1_000_000_000))

    async def publish_telemetry(
        self, requests: AsyncIterator[PublishTelemetryRequest], call: Call
    ) -> PublishTelemetryResponse:
        count = sum([len(request.packets) async for request in requests])
        return PublishTelemetryResponse(accepted=max(0, count - 2), refused=0, duplicates=0)


async def test_a_newer_mode_of_a_heartbeat_counts_where_the_stream_is_stuck(serve: Serve) -> None:
    listener = Stuck()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    listener.modes.put_nowait(SystemMode.SYSTEM_MODE_DEGRADED)
    await reached(lambda: sender.plane.mode == SystemMode.SYSTEM_MODE_DEGRADED)
    listener.since_s = 60
    await reached(lambda: sender.plane.mode == SystemMode.SYSTEM_MODE_EMERGENCY)
    await closed(sender)


async def test_packets_that_weatherlight_does_not_account_for_are_told(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(Stuck())
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=replace(QUICK, flush_s=60.0))
    for _ in range(3):
        sender.send(ordinary())
    await closed(sender)
    assert "of 3 packets Weatherlight doesn't account for 2" in caplog.text


class Careless(Listener):
    """A Weatherlight whose first answers can't be used, and which then asks to hold back for ten years."""

    wrong = 2

    async def publish_telemetry(
        self, requests: AsyncIterator[PublishTelemetryRequest], call: Call
    ) -> PublishTelemetryResponse:
        if self.wrong:
            self.wrong -= 1
            return PublishTelemetryResponse()
        answer = await super().publish_telemetry(requests, call)
        answer.back_pressure.CopyFrom(duration(3e8))
        return answer


async def test_no_answer_of_weatherlight_silences_the_sender(serve: Serve) -> None:
    listener = Careless()
    server = await serve(listener)
    config = replace(QUICK, max_hold_s=0.05)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=config)
    for number in range(3):
        sender.send(ordinary(number))
        await listener.until(lambda number=number: len(listener.heard) > number)
    await closed(sender)
    assert sender.pending == 0


class Broken:
    """A client whose every call ends with an error that nobody foresaw."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            raise TypeError(name)

        return call


async def test_an_error_that_nobody_foresaw_ends_neither_thread(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    await listener.until(lambda: bool(listener.registered))
    client, sender._client = sender._client, Broken()  # type: ignore[assignment]
    sender.send(ordinary())
    await reached(lambda: "telemetry waits" in caplog.text)
    sender._client = client
    listener.modes.put_nowait(SystemMode.SYSTEM_MODE_DEGRADED)
    await listener.until(lambda: len(listener.heard) == 1)
    await reached(lambda: sender.plane.mode == SystemMode.SYSTEM_MODE_DEGRADED)
    await closed(sender)


def test_a_packet_that_fits_in_no_batch_is_counted_and_ends_nothing(socket_dir: Path) -> None:
    sender = TelemetrySender(f"unix:{socket_dir}/none", KEYRING, "tolaria", config=QUICK)
    sender.send(build_packet("tolaria", SYSTEM_CLOCK, events=[event(ALARM, SYSTEM_CLOCK, "x" * 2**21, seed_id="s1")]))
    sender.close(5.0)
    assert (sender.dropped, sender.pending) == (1, 0)


async def reached(condition: Callable[[], bool]) -> None:
    """Wait for another thread: there is nothing here to be woken by."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_without_weatherlight_critical_events_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    reporter = LogReporter()
    reporter.send(critical())
    reporter.send(ordinary())
    (record,) = caplog.records
    assert "test_alarm" in record.message
    assert "leak" in record.message
    assert "s1" in record.message


async def test_of_a_line_that_was_told_broken_only_what_is_lost_is_told_at_the_end(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    await listener.until(lambda: bool(listener.registered))
    sender._client = Broken()  # type: ignore[assignment]
    sender.send(ordinary())
    await reached(lambda: "telemetry waits" in caplog.text)
    await closed(sender)
    assert sender.pending == 1
    told = [record.message.partition(":")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["telemetry waits, 1 packet", "telemetry that waits is lost, 1 packet unsent"]


async def test_who_cannot_publish_lives_and_takes_leave_all_the_same(serve: Serve) -> None:
    listener = Listener()
    listener.refusals = 10**6
    server = await serve(listener)
    slow = replace(QUICK, retry_s=30.0, max_retry_s=30.0)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=slow)
    sender.send(ordinary())
    await listener.until(lambda: len(listener.beats) > 2)
    await closed(sender)
    assert listener.beats[-1].is_leaving


async def test_a_line_that_breaks_as_its_process_leaves_is_told(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    server = await serve(listener)
    sender = TelemetrySender(str(server.endpoint), KEYRING, "tolaria", config=QUICK)
    await reached(lambda: sender._presence.is_registered)
    sender._presence.interval_s = 3600.0  # no sign of life before the leave finds the line broken
    sender._client = Broken()  # type: ignore[assignment]
    await closed(sender)
    assert "left without notice, 0 packets unsent" in caplog.text
