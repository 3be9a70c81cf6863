"""Services, emergencies and mode together, with every change told on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from esper.core.clock import ManualClock, timestamp
from esper.core.errors import (
    CommandRejected,
    DependencyViolationError,
    InvalidSignature,
    MissingSignature,
    NonceReplayed,
    ServiceUnavailable,
    StaleCommand,
)
from esper.leyline import (
    DrainOrder,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencySignal,
    HealthStatus,
    HeartbeatRequest,
    MessagePriority,
    RegisterServiceRequest,
    RejectionReason,
    RollbackDeadlineSignal,
    SignedCommand,
    SystemMode,
    TelemetryPacket,
)
from esper.weatherlight import metrics
from esper.weatherlight.config import WeatherlightConfig
from esper.weatherlight.routing import Taken
from esper.weatherlight.supervision.mode import DEGRADED, EMERGENCY, NORMAL
from tests.unit.held_commits import abandoned
from tests.unit.weatherlight.conftest import Open, Plane

HEALTHY = HealthStatus.HEALTH_STATUS_HEALTHY


def registration(instance: str = "h:1", endpoint: str | None = "unix:/t") -> RegisterServiceRequest:
    return RegisterServiceRequest(service="tamiyo", instance=instance, endpoint=endpoint, version="1")


def beat(instance: str = "h:1", *, is_leaving: bool = False, health: int = HEALTHY) -> HeartbeatRequest:
    return HeartbeatRequest(service="tamiyo", instance=instance, health=health, is_leaving=is_leaving)


def signal(emergency_id: str = "e1", level: str = "L4_HALT", run: str | None = "r1") -> EmergencySignal:
    return EmergencySignal(
        emergency_id=emergency_id,
        level=EmergencyLevel.Value(f"EMERGENCY_LEVEL_{level}"),
        cause="tolaria.emergency.halt",
        detail="the loss is NaN",
        origin="tolaria",
        training_run_id=run,
        raised_at=timestamp(1_760_000_000 * 10**9),
    )


def resolved(emergency_id: str = "e1", *, is_over: bool = True) -> EmergencyAcknowledgement:
    return EmergencyAcknowledgement(emergency_id=emergency_id, acknowledged_by="operator:a", resolved=is_over)


async def names(plane: Plane) -> list[str]:
    return [event.name for event in await plane.events()]


async def test_a_silent_service_is_lost_and_heard_again_it_is_back(plane: Plane) -> None:
    await plane.supervisor.register(registration())
    plane.clock.advance(6.0)
    await plane.supervisor.sweep()
    assert plane.supervisor.mode().mode == NORMAL
    plane.clock.advance(0.1)
    await plane.supervisor.sweep()
    assert plane.supervisor.mode().mode == DEGRADED
    assert "tamiyo (h:1) is lost" in plane.supervisor.mode().cause
    assert await plane.supervisor.heartbeat(beat())
    plane.clock.advance(15.0)
    await plane.supervisor.heartbeat(beat())
    await plane.supervisor.sweep()
    plane.clock.advance(5.0)
    await plane.supervisor.sweep()
    assert plane.supervisor.mode().mode == NORMAL
    assert await names(plane) == [
        "service_registered",
        "service_lost",
        "mode_changed",
        "service_returned",
        "mode_changed",
    ]


async def test_a_service_that_takes_leave_is_not_missed(plane: Plane) -> None:
    await plane.supervisor.register(registration())
    assert await plane.supervisor.heartbeat(beat(is_leaving=True))
    plane.clock.advance(60.0)
    await plane.supervisor.sweep()
    assert plane.supervisor.registry.statuses() == []
    assert plane.supervisor.mode().mode == NORMAL
    assert [event.name for event in await plane.events()] == ["service_registered", "service_left"]


async def test_a_sign_of_life_is_stored_where_it_says_something_new_and_else_every_half_minute(plane: Plane) -> None:
    await plane.supervisor.register(registration())
    registry = plane.supervisor.registry

    def is_stored(sign: HeartbeatRequest) -> bool:
        plane.clock.advance(2.0)
        found = registry.heartbeat(sign)
        assert found is not None
        return found[1] is not None

    assert [is_stored(beat()) for _ in range(14)] == [False] * 14
    assert is_stored(beat())
    assert not is_stored(beat())
    assert is_stored(beat(health=HealthStatus.HEALTH_STATUS_DEGRADED))
    assert not is_stored(beat(health=HealthStatus.HEALTH_STATUS_DEGRADED))
    plane.clock.advance(6.1)
    await plane.supervisor.sweep()
    assert is_stored(beat(health=HealthStatus.HEALTH_STATUS_DEGRADED))


async def test_an_unknown_service_is_told_to_register(plane: Plane) -> None:
    assert not await plane.supervisor.heartbeat(beat())


async def test_an_unwell_service_degrades_the_plane_at_once(plane: Plane) -> None:
    await plane.supervisor.register(registration())
    await plane.supervisor.heartbeat(beat(health=HealthStatus.HEALTH_STATUS_UNHEALTHY))
    assert plane.supervisor.mode().mode == DEGRADED


async def test_a_restarted_service_takes_the_place_of_its_dead_instance(plane: Plane) -> None:
    await plane.supervisor.register(registration("h:1"))
    await plane.supervisor.register(registration("h:2"))
    assert [status.instance for status in plane.supervisor.registry.statuses()] == ["h:2"]


async def test_two_instances_at_different_places_both_stay(plane: Plane) -> None:
    await plane.supervisor.register(registration("h:1", "unix:/a"))
    await plane.supervisor.register(registration("h:2", "unix:/b"))
    assert [status.instance for status in plane.supervisor.registry.statuses()] == ["h:1", "h:2"]


async def test_a_service_lost_for_long_is_forgotten(plane: Plane) -> None:
    await plane.supervisor.register(registration())
    plane.clock.advance(101.0)
    await plane.supervisor.sweep()
    assert plane.supervisor.registry.statuses() == []


async def test_registry_and_emergencies_survive_a_restart(open_plane: Open, clock: ManualClock) -> None:
    first = open_plane()
    await first.supervisor.register(registration())
    await first.actions.raise_emergency(first.signer.sign(signal(), audience="weatherlight/r1"))
    await first.close()
    clock.advance(60.0)
    second = open_plane()
    await second.supervisor.sweep()
    (status,) = second.supervisor.registry.statuses()
    assert (status.service, status.endpoint, status.is_lost) == ("tamiyo", "unix:/t", False)
    assert second.supervisor.mode().mode == EMERGENCY
    clock.advance(6.1)
    await second.supervisor.sweep()
    assert second.supervisor.registry.statuses()[0].is_lost
    await second.close()


async def test_what_was_stored_counts_though_its_caller_gave_up_meanwhile(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising = plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    await abandoned(monkeypatch, raising)
    while plane.supervisor.mode().mode != EMERGENCY:
        await asyncio.sleep(0.005)
    acknowledging = plane.actions.acknowledge(plane.signer.sign(resolved(), audience="weatherlight/r1"))
    await abandoned(monkeypatch, acknowledging)
    while plane.supervisor.open_emergencies:
        await asyncio.sleep(0.005)
    told = await names(plane)
    assert (told.count("emergency_signal_received"), told.count("emergency_acknowledged")) == (1, 1)


async def test_an_emergency_sets_the_mode_until_it_is_resolved(plane: Plane) -> None:
    await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    update = plane.supervisor.mode()
    assert update.mode == EMERGENCY
    assert [each.emergency_id for each in update.open_emergencies] == ["e1"]
    taken = resolved(is_over=False)
    await plane.actions.acknowledge(plane.signer.sign(taken, audience="weatherlight/r1"))
    assert plane.supervisor.mode().mode == EMERGENCY
    await plane.actions.acknowledge(plane.signer.sign(resolved(), audience="weatherlight/r1"))
    assert "emergency_acknowledged" in [event.name for event in await plane.events()]
    assert not plane.supervisor.open_emergencies
    await plane.actions.acknowledge(plane.signer.sign(taken, audience="weatherlight/r1"))
    assert not plane.supervisor.open_emergencies
    for _ in range(3):
        plane.clock.advance(5.0)
        await plane.supervisor.sweep()
    assert plane.supervisor.mode().mode == NORMAL


async def test_who_watches_hears_of_an_emergency_while_the_bus_hangs(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = asyncio.Event()
    take = plane.router.take

    async def hanging(packets: Sequence[TelemetryPacket]) -> Taken:
        await free.wait()
        return await take(packets)

    monkeypatch.setattr(plane.router, "take", hanging)
    watching = plane.supervisor.modes()
    await anext(watching)
    for name in ("e1", "e2", "e3"):
        await plane.actions.raise_emergency(plane.signer.sign(signal(name), audience="weatherlight/r1"))
        assert name in {each.emergency_id for each in (await anext(watching)).open_emergencies}
    free.set()
    assert (await names(plane)).count("emergency_signal_received") == 3


async def test_an_emergency_is_told_as_critical(plane: Plane) -> None:
    await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    told = next(packet for packet in await plane.packets() if packet.events[0].name == "emergency_signal_received")
    assert told.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL
    assert told.events[0].message == "the loss is NaN"


async def test_the_mode_is_measured_with_every_change_of_it(plane: Plane) -> None:
    await plane.supervisor.register(registration())
    await plane.supervisor.heartbeat(beat(health=HealthStatus.HEALTH_STATUS_DEGRADED))
    await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    await plane.supervisor.settled()
    packets = await plane.packets()
    measured = [each.value for packet in packets for each in packet.metrics if each.name == metrics.MODE.name]
    assert measured == [DEGRADED, EMERGENCY]


async def test_the_same_emergency_counts_once_and_stays_resolved(plane: Plane) -> None:
    for _ in range(2):
        await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    await plane.actions.acknowledge(plane.signer.sign(resolved(), audience="weatherlight/r1"))
    await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    assert not plane.supervisor.open_emergencies
    assert (await names(plane)).count("emergency_signal_received") == 1


async def test_a_late_rollback_opens_one_emergency_of_the_configured_level_however_often_it_is_told(
    plane: Plane,
) -> None:
    late = RollbackDeadlineSignal(training_run_id="r1", generation=2, step=70, deadline_ms=500.0, elapsed_ms=812.0)
    for _ in range(2):
        await plane.actions.signal_late_rollback(plane.signer.sign(late, audience="weatherlight/r1"))
    (opened,) = plane.supervisor.open_emergencies
    assert opened.level == EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE
    assert opened.detail == "the rollback at step 70 took 812 ms; its deadline is 500 ms"
    assert plane.supervisor.rollback_latency_ms == 812.0
    assert (await names(plane)).count("rollback_deadline_triggered") == 1


def test_a_late_rollback_halts_every_run_by_default() -> None:
    assert WeatherlightConfig().rollback_level == EmergencyLevel.EMERGENCY_LEVEL_L4_HALT


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        ("unsigned", MissingSignature, "MISSING_SIGNATURE"),
        ("forged", InvalidSignature, "INVALID_SIGNATURE"),
        ("other service", InvalidSignature, "WRONG_AUDIENCE"),
        ("other run", InvalidSignature, "WRONG_AUDIENCE"),
        ("other type", InvalidSignature, "WRONG_PAYLOAD_TYPE"),
        ("stale", StaleCommand, "STALE_COMMAND"),
        ("replayed", NonceReplayed, "NONCE_REPLAYED"),
        ("incomplete", CommandRejected, "MALFORMED_PAYLOAD"),
    ],
)
async def test_what_cannot_be_believed_changes_nothing_and_is_told(
    plane: Plane, spoil: str, error: type[Exception], reason: str
) -> None:
    envelope = await spoiled(plane, spoil)
    before = len(plane.supervisor.open_emergencies)
    with pytest.raises(error) as caught:
        await plane.actions.raise_emergency(envelope)
    assert isinstance(caught.value, CommandRejected)
    assert RejectionReason.Name(caught.value.reason) == f"REJECTION_REASON_{reason}"
    assert len(plane.supervisor.open_emergencies) == before
    told = (await plane.packets())[-1]
    assert told.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL
    assert {a.key: a.text for a in told.events[0].attributes}["reason"] == f"REJECTION_REASON_{reason}"


async def spoiled(plane: Plane, how: str) -> SignedCommand:
    audiences = {"other service": "kasmina/r1", "other run": "weatherlight/r2"}
    message = {"other type": resolved(), "incomplete": EmergencySignal(training_run_id="r1")}.get(how, signal())
    envelope = plane.signer.sign(message, audience=audiences.get(how, "weatherlight/r1"))
    if how == "unsigned":
        envelope.ClearField("security")
    if how == "forged":
        envelope.security.signature = "0" * 64
    if how == "stale":
        plane.clock.advance(61.0)
    if how == "replayed":
        await plane.actions.raise_emergency(envelope)
        await plane.supervisor.settled()
    return envelope


async def test_a_refused_message_uses_up_its_nonce(plane: Plane) -> None:
    envelope = plane.signer.sign(EmergencySignal(training_run_id="r1"), audience="weatherlight/r1")
    with pytest.raises(CommandRejected):
        await plane.actions.raise_emergency(envelope)
    with pytest.raises(NonceReplayed):
        await plane.actions.raise_emergency(envelope)


async def test_acknowledging_an_unknown_emergency_is_an_error(plane: Plane) -> None:
    envelope = plane.signer.sign(resolved("e9"), audience="weatherlight/-")
    with pytest.raises(DependencyViolationError, match="e9"):
        await plane.actions.acknowledge(envelope)


async def test_a_drain_order_is_for_the_whole_plane(plane: Plane) -> None:
    order = DrainOrder(rationale="maintenance", grace_s=3.0)
    opened = await plane.actions.order_drain(plane.signer.sign(order, audience="weatherlight/-"))
    assert opened.grace_s == 3.0
    with pytest.raises(InvalidSignature):
        await plane.actions.order_drain(plane.signer.sign(order, audience="weatherlight/r1"))


async def test_watchers_hear_the_mode_at_once_and_at_every_change(plane: Plane) -> None:
    modes = plane.supervisor.modes()
    assert (await anext(modes)).mode == NORMAL
    coming = asyncio.ensure_future(anext(modes))
    await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))
    update = await asyncio.wait_for(coming, 5)
    assert SystemMode.Name(update.mode) == "SYSTEM_MODE_EMERGENCY"
    await modes.aclose()


async def test_a_bus_that_is_away_keeps_no_emergency_from_its_end(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await plane.actions.raise_emergency(plane.signer.sign(signal(), audience="weatherlight/r1"))

    async def unreachable(packets: Sequence[TelemetryPacket]) -> Taken:
        raise ServiceUnavailable("oona", "bus", "redis", "publish failed")

    monkeypatch.setattr(plane.router, "take", unreachable)
    word = EmergencyAcknowledgement(emergency_id="e1", acknowledged_by="operator:ada", resolved=True, note="")
    await plane.actions.acknowledge(plane.signer.sign(word, audience="weatherlight/r1"))
    assert not plane.supervisor.mode().open_emergencies
    assert "the only trace of these events" in caplog.text
