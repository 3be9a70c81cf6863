"""An alarm is heard, however long Weatherlight is away and whoever ends meanwhile, and each emergency once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import BackPressure
from esper.leyline import (
    EmergencyLevel,
    EmergencySignal,
    RaiseEmergencyRequest,
    RaiseEmergencyResponse,
    RollbackDeadlineSignal,
    SignalRollbackDeadlineRequest,
    SignalRollbackDeadlineResponse,
)
from esper.rpc.reporting import alarm as module
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.server.call import Call
from tests.unit.rpc.conftest import Serve
from tests.unit.rpc.reporting.test_telemetry import Listener
from tests.unit.rpc.scripted import KEYRING

L2, L4 = EmergencyLevel.EMERGENCY_LEVEL_L2_ELEVATED, EmergencyLevel.EMERGENCY_LEVEL_L4_HALT


class Warned(Listener):
    """A Weatherlight that keeps what is raised."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[EmergencySignal] = []
        self.late: list[RollbackDeadlineSignal] = []

    async def raise_emergency(self, request: RaiseEmergencyRequest, call: Call) -> RaiseEmergencyResponse:
        self.raised.append(EmergencySignal.FromString(request.command.payload))
        self.changed.set()
        return await super().raise_emergency(request, call)

    async def signal_rollback_deadline(
        self, request: SignalRollbackDeadlineRequest, call: Call
    ) -> SignalRollbackDeadlineResponse:
        self.late.append(RollbackDeadlineSignal.FromString(request.command.payload))
        self.changed.set()
        return await super().signal_rollback_deadline(request, call)


def alarm(endpoint: str, directory: Path) -> Alarm:
    return Alarm(endpoint, KEYRING, SYSTEM_CLOCK, "kasmina", directory)


async def test_an_emergency_arrives_and_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    listener = Warned()
    server = await serve(listener)
    made = alarm(str(server.endpoint), tmp_path)
    made.raise_emergency(L4, "halt", "a drill", run="r1", generation=2)
    await listener.until(lambda: bool(listener.raised))
    (signal,) = listener.raised
    assert (signal.level, signal.cause, signal.detail, signal.origin) == (L4, "halt", "a drill", "kasmina")
    assert (signal.training_run_id, signal.generation) == ("r1", 2)
    await asyncio.to_thread(made.close, 5.0)
    assert (made.sent, made.queued) == (1, 0)


async def test_what_waits_is_sent_by_the_next_process_oldest_first_and_each_once(
    serve: Serve, socket_dir: Path, tmp_path: Path
) -> None:
    first = alarm(f"unix:{socket_dir}/nobody", tmp_path)
    for _ in range(3):
        first.raise_emergency(L4, "halt", "the first", run="r1")
    first.raise_emergency(L2, "elevated", "the second", emergency_id="e2")
    first.raise_emergency(L4, "other", "the second, told again", emergency_id="e2")
    assert first.queued == 2
    await asyncio.to_thread(first.close, 5.0)
    assert first.failures > 0
    listener = Warned()
    server = await serve(listener)
    second = alarm(str(server.endpoint), tmp_path)
    await listener.until(lambda: len(listener.raised) == 2)
    await asyncio.to_thread(second.close, 5.0)
    assert [signal.detail for signal in listener.raised] == ["the first", "the second"]
    assert second.queued == 0


async def test_a_late_rollback_waits_like_an_emergency_and_goes_by_its_own_call(
    serve: Serve, socket_dir: Path, tmp_path: Path
) -> None:
    first = alarm(f"unix:{socket_dir}/nobody", tmp_path)
    for _ in range(2):
        first.signal_late_rollback("r1", generation=3, step=70, deadline_ms=12e3, elapsed_ms=12001.5)
    assert first.queued == 1
    await asyncio.to_thread(first.close, 5.0)
    listener = Warned()
    server = await serve(listener)
    second = alarm(str(server.endpoint), tmp_path)
    await listener.until(lambda: bool(listener.late))
    await asyncio.to_thread(second.close, 5.0)
    expected = RollbackDeadlineSignal(training_run_id="r1", generation=3, step=70, deadline_ms=12e3, elapsed_ms=12001.5)
    assert listener.late == [expected]
    assert (listener.raised, second.sent, second.queued) == ([], 1, 0)


async def test_a_damaged_file_is_put_aside_and_keeps_no_other_back(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "0-broken.emergency").write_bytes(b"\xff\xff")
    listener = Warned()
    server = await serve(listener)
    made = alarm(str(server.endpoint), tmp_path)
    made.raise_emergency(L4, "halt", "a drill")
    await listener.until(lambda: bool(listener.raised))
    await asyncio.to_thread(made.close, 5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["0-broken.damaged"]


def test_a_full_queue_refuses_loudly_and_drops_nothing(
    socket_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAPACITY", 2)
    made = alarm(f"unix:{socket_dir}/nobody", tmp_path)
    made.raise_emergency(L4, "a", "a drill")
    made.raise_emergency(L4, "b", "a drill")
    with pytest.raises(BackPressure, match="2 emergencies wait"):
        made.raise_emergency(L4, "c", "a drill")
    assert made.queued == 2
    made.close(5.0)


def test_without_weatherlight_it_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Alarm(None, KEYRING, SYSTEM_CLOCK, "tamiyo", tmp_path / "none")
    with caplog.at_level(logging.CRITICAL):
        made.raise_emergency(L4, "halt", "a drill")
    assert "EMERGENCY_LEVEL_L4_HALT: halt a drill" in caplog.text
    assert not (tmp_path / "none").exists()
