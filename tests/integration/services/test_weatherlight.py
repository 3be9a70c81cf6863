"""Weatherlight as a process: what survives kill -9, what a drain leaves, what the mode tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK, timestamp
from esper.core.errors import EsperError, NonceReplayed, ServiceUnavailable
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import (
    BusEnvelope,
    BusLane,
    ConsumeRequest,
    DrainOrder,
    DrainRequest,
    EmergencyLevel,
    EmergencySignal,
    MessagePriority,
    PublishRequest,
    PublishTelemetryRequest,
    RaiseEmergencyRequest,
    RegisterServiceRequest,
    RunClosure,
    SubscribeRequest,
    SystemMode,
    TelemetryLevel,
    TelemetryPacket,
    WatchModeRequest,
    WeatherlightServiceGetStatusRequest,
)
from esper.oona.envelope import seal
from esper.rpc.clients import Channel
from tests.integration.services.service_process import (
    KEYRING,
    SIGNER,
    TIMEOUT_S,
    ServiceProcess,
    bus_client,
    weatherlight_client,
)

LOSS = MetricSpec("test.loss", "nats", "A loss.")
ALARM = EventSpec("test_alarm", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "An alarm.")
QUICK = "[weatherlight.registry]\nheartbeat_s = 0.2\n[weatherlight.mode]\ndwell_s = 0.1\nclear_s = 0.1\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess("weatherlight", tmp_path / "state") as made:
        yield made


def emergency(emergency_id: str = "e1") -> EmergencySignal:
    return EmergencySignal(
        emergency_id=emergency_id,
        level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT,
        cause="test_halt",
        detail="a test",
        origin="operator:test",
        raised_at=timestamp(SYSTEM_CLOCK.now_ns()),
    )


def publish(link: Channel, *packets: TelemetryPacket) -> int:
    request = PublishTelemetryRequest(packets=packets, dropped=0)
    return weatherlight_client(link).publish_telemetry(iter([request]), timeout_s=TIMEOUT_S).accepted


def envelope(event_id: str) -> BusEnvelope:
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    return seal(KEYRING, SYSTEM_CLOCK, RunClosure(), source="tolaria", lane=lane, priority=priority, event_id=event_id)


def test_kill_9_forgets_no_service_no_emergency_and_no_nonce(service: ServiceProcess) -> None:
    client = weatherlight_client(service.channel, "tamiyo")
    client.register_service(
        RegisterServiceRequest(service="tamiyo", instance="h:1", endpoint="unix:/t", version="1"), timeout_s=TIMEOUT_S
    )
    command = RaiseEmergencyRequest(command=SIGNER.sign(emergency(), audience="weatherlight/-"))
    assert client.raise_emergency(command, timeout_s=TIMEOUT_S).mode.mode == SystemMode.SYSTEM_MODE_EMERGENCY
    service.kill()
    again = weatherlight_client(service.start(), "tamiyo")
    status = again.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S)
    assert [(each.service, each.endpoint) for each in status.services] == [("tamiyo", "unix:/t")]
    assert status.mode.mode == SystemMode.SYSTEM_MODE_EMERGENCY
    assert [each.emergency_id for each in status.mode.open_emergencies] == ["e1"]
    with pytest.raises(NonceReplayed):
        again.raise_emergency(command, timeout_s=TIMEOUT_S)


def test_kill_9_loses_no_acknowledged_packet(service: ServiceProcess) -> None:
    packets = [build_packet("tolaria", SYSTEM_CLOCK, metrics=[metric(LOSS, number)]) for number in range(50)]
    alarm = build_packet("tolaria", SYSTEM_CLOCK, events=[event(ALARM, SYSTEM_CLOCK)])
    assert publish(service.channel, *packets, alarm) == 51
    service.kill()
    link = service.start()
    request = SubscribeRequest(sources=["tolaria"], after_sequence=0)
    stream = weatherlight_client(link).subscribe(request, timeout_s=TIMEOUT_S)
    found = {next(stream).packet.packet_id for _ in range(51)}
    assert found == {packet.packet_id for packet in (*packets, alarm)}
    assert publish(link, *packets) == 0


def test_what_was_measured_last_is_on_the_bus_after_a_stop_in_order(tmp_path: Path) -> None:
    settings = tmp_path / "weatherlight.toml"
    settings.write_text("[weatherlight]\nsummary_s = 3600.0\n")
    with ServiceProcess("weatherlight", tmp_path / "state", "--config", str(settings)) as service:
        publish(
            service.channel, *[build_packet("tolaria", SYSTEM_CLOCK, metrics=[metric(LOSS, 1.0)]) for _ in range(7)]
        )
        assert service.stop() == 0
        request = SubscribeRequest(sources=["weatherlight"], after_sequence=0)
        stream = weatherlight_client(service.start()).subscribe(request, timeout_s=TIMEOUT_S)
        for response in stream:
            told = {each.name: each.value for each in response.packet.metrics}
            if told.get("weatherlight.telemetry.packets_total", 0.0) >= 7:
                return


def test_a_service_that_dies_degrades_the_plane_until_it_is_back(tmp_path: Path) -> None:
    settings = tmp_path / "weatherlight.toml"
    settings.write_text(QUICK)
    with (
        ServiceProcess("weatherlight", tmp_path / "w", "--config", str(settings)) as plane,
        ServiceProcess("tamiyo", tmp_path / "t", "--weatherlight", plane.endpoint) as tamiyo,
    ):
        modes = weatherlight_client(plane.channel).watch_mode(WatchModeRequest(), timeout_s=60)
        _registered(plane, "tamiyo")
        tamiyo.kill()
        lost = _until(modes, SystemMode.SYSTEM_MODE_DEGRADED)
        assert "tamiyo" in lost
        assert "is lost" in lost
        tamiyo.start()
        _until(modes, SystemMode.SYSTEM_MODE_NORMAL)


def _registered(plane: ServiceProcess, name: str) -> None:
    """Return when the registry has the service: its event is on the bus."""
    request = SubscribeRequest(sources=["weatherlight"], after_sequence=0)
    for response in weatherlight_client(plane.channel).subscribe(request, timeout_s=TIMEOUT_S):
        for each in response.packet.events:
            if each.name == "service_registered" and each.attributes[0].text == name:
                return


def _until(modes: Iterator[object], wanted: int) -> str:
    for response in modes:
        if response.mode.mode == wanted:
            return response.mode.cause
    raise AssertionError("the stream ended")


def test_a_signed_drain_ends_the_process_in_order(service: ServiceProcess) -> None:
    client = weatherlight_client(service.channel)
    modes = client.watch_mode(WatchModeRequest(), timeout_s=60)
    next(modes)
    order = DrainOrder(rationale="test", grace_s=5.0)
    client.drain(DrainRequest(command=SIGNER.sign(order, audience="weatherlight/-")), timeout_s=TIMEOUT_S)
    with pytest.raises(ServiceUnavailable, match="draining"):
        list(modes)
    assert service.process.wait(TIMEOUT_S) == 0


def test_a_drain_under_load_loses_nothing_that_was_acknowledged(service: ServiceProcess) -> None:
    acknowledged: list[str] = []
    failures: list[EsperError] = []
    enough = threading.Event()

    def publish_on(worker: int) -> None:
        client = bus_client(service.channel)
        for number in range(100_000):
            event_id = f"w{worker}-{number}"
            try:
                client.publish(PublishRequest(envelopes=[envelope(event_id)]), timeout_s=TIMEOUT_S)
            except EsperError as error:
                failures.append(error)
                return
            acknowledged.append(event_id)
            if len(acknowledged) > 200:
                enough.set()

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(publish_on, worker) for worker in range(4)]
        assert enough.wait(60)
        code = service.stop()
        for worker in workers:
            worker.result(TIMEOUT_S)
    assert code == 0
    assert all(isinstance(failure, ServiceUnavailable) for failure in failures), failures
    assert len(failures) == 4
    stored = _stored_ids(service, len(acknowledged))
    assert set(acknowledged) <= stored


def _stored_ids(service: ServiceProcess, at_least: int) -> set[str]:
    """What a new consumer group is given after a restart."""
    link = service.start()
    opening = ConsumeRequest(group="check", consumer="c", lanes=[BusLane.BUS_LANE_NORMAL], max_in_flight=1024)
    answered = threading.Event()
    found: set[str] = set()
    pending: list[str] = []

    def requests() -> Iterator[ConsumeRequest]:
        yield opening
        while not answered.wait(0.02):
            batch, pending[:] = pending[:], []
            if batch:
                yield ConsumeRequest(acknowledged_event_ids=batch)

    for response in bus_client(link).consume(requests(), timeout_s=60):
        found.add(response.envelope.event_id)
        pending.append(response.envelope.event_id)
        if len(found) >= at_least:
            answered.set()
            break
    return found


def test_a_second_process_on_the_same_state_is_refused(service: ServiceProcess, tmp_path: Path) -> None:
    other = ServiceProcess("weatherlight", tmp_path / "state")
    other.launch()
    assert other.process.wait(TIMEOUT_S) == 78
    assert "in use by another process" in other.log
    other.clear()
