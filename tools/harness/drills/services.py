"""Drills of the services alone: a consumer that falls behind, an emergency, a refused command."""

from __future__ import annotations

import getpass
import queue
import secrets
from collections.abc import Iterator
from contextlib import suppress

from esper.core.clock import SYSTEM_CLOCK, timestamp
from esper.core.errors import CommandRejected
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.leyline import (
    AcknowledgeEmergencyRequest,
    AdaptationCommand,
    ApplyCommandRequest,
    BusLane,
    ConsumeRequest,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencySignal,
    MessagePriority,
    PauseOrder,
    PublishRequest,
    RaiseEmergencyRequest,
    RunClosure,
    WeatherlightServiceGetStatusRequest,
)
from esper.oona.envelope import seal
from esper.rpc.clients import BusClient
from tools.harness.drills.plane import TIMEOUT_S, DrilledPlane

LANE, GROUP = BusLane.BUS_LANE_NORMAL, "drill"
BEHIND = 5000
"""More than the rule's 4000."""
AT_ONCE = 250


def queue_depth(plane: DrilledPlane) -> Iterator[None]:
    """A group that took something once takes nothing more, while others publish; then it catches up."""
    with plane.bus() as client:
        _publish(plane, client, 1)
        _handle(client, 1)
        yield
        _publish(plane, client, BEHIND)
        yield
        _handle(client, BEHIND)
        yield


def emergency(plane: DrilledPlane) -> Iterator[None]:
    """An L4 is raised, and acknowledged."""
    with plane.weatherlight() as client:
        yield
        signal = EmergencySignal(
            emergency_id=f"drill-{secrets.token_hex(6)}",
            level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT,
            cause="drill",
            detail="a drill",
            origin=f"operator:{getpass.getuser()}",
            raised_at=timestamp(SYSTEM_CLOCK.now_ns()),
        )
        command = plane.signer.sign(signal, audience="weatherlight/-")
        client.raise_emergency(RaiseEmergencyRequest(command=command), timeout_s=TIMEOUT_S)
        yield
        acknowledge_all(plane)
        yield


def refused_command(plane: DrilledPlane) -> Iterator[None]:
    """A command that another secret signed comes to Kasmina once; it is over by itself after the rule's window."""
    with plane.kasmina() as client:
        yield
        forger = Signer(Keyring.from_secret(new_secret()), SYSTEM_CLOCK)
        command = AdaptationCommand(
            command_id="drill-forged",
            training_run_id="drill",
            generation=0,
            step=0,
            issued_by="operator:drill",
            pause=PauseOrder(rationale="forged"),
        )
        with suppress(CommandRejected):
            request = ApplyCommandRequest(command=forger.sign(command, audience="kasmina/drill"))
            client.apply_command(request, timeout_s=TIMEOUT_S)
        yield
        yield


def acknowledge_all(plane: DrilledPlane) -> None:
    """Every open emergency is over."""
    with plane.weatherlight() as client:
        status = client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S)
        for signal in status.mode.open_emergencies:
            word = EmergencyAcknowledgement(
                emergency_id=signal.emergency_id, acknowledged_by=f"operator:{getpass.getuser()}", resolved=True
            )
            audience = f"weatherlight/{signal.training_run_id or '-'}"
            request = AcknowledgeEmergencyRequest(command=plane.signer.sign(word, audience=audience))
            client.acknowledge_emergency(request, timeout_s=TIMEOUT_S)


def _publish(plane: DrilledPlane, client: BusClient, count: int) -> None:
    lane, priority = LANE, MessagePriority.MESSAGE_PRIORITY_NORMAL
    for start in range(0, count, AT_ONCE):
        envelopes = [
            seal(
                plane.keyring,
                SYSTEM_CLOCK,
                RunClosure(reason="a drill"),
                source="operator",
                lane=lane,
                priority=priority,
            )
            for _ in range(min(AT_ONCE, count - start))
        ]
        client.publish(PublishRequest(envelopes=envelopes), timeout_s=TIMEOUT_S)


def _handle(client: BusClient, count: int) -> None:
    """Take so many as one consumer of the group, and acknowledge them."""
    orders: queue.SimpleQueue[ConsumeRequest | None] = queue.SimpleQueue()
    orders.put(ConsumeRequest(group=GROUP, consumer="drill", lanes=[LANE], max_in_flight=2 * AT_ONCE))
    responses = client.consume(iter(orders.get, None), timeout_s=60 * TIMEOUT_S)
    found: list[str] = []
    for place, response in enumerate(responses, 1):
        found.append(response.envelope.event_id)
        if place == count or len(found) == AT_ONCE:
            orders.put(ConsumeRequest(acknowledged_event_ids=found))
            found = []
        if place == count:
            orders.put(None)
