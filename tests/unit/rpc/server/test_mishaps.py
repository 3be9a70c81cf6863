"""What callers provoke is told once a window, and counted to the last."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import DependencyViolationError, ServiceUnavailable, UnparsableMessage
from esper.leyline import AdvanceRequest, Event, PublishRequest, PublishResponse
from esper.rpc.clients.aio import BusClient
from esper.rpc.clients.channel import aio_channel
from esper.rpc.server.call import Call
from esper.rpc.server.mishaps import WINDOW_S, Mishaps
from esper.rpc.server.parse import parsed
from esper.rpc.server.server import ServerConfig, start
from tests.unit.rpc.scripted import ScriptedBus, a_request


async def test_a_flood_is_a_line_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    mishaps = Mishaps(clock)
    with caplog.at_level(logging.WARNING, "esper.rpc"):
        for _ in range(1000):
            mishaps.unparsable("S/A", "unix:", "its 3 bytes are no A")
            mishaps.unexpected("S/A", ValueError("a bug"))
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
        clock.advance(WINDOW_S + 1)
        mishaps.unparsable("S/A", "unix:", "its 3 bytes are no A")
    told = [record.getMessage() for record in caplog.records[2:]]
    assert told == ["S/A: 999 more unparsable requests within 10 s", "S/A from unix: refused: its 3 bytes are no A"]


async def test_methods_and_kinds_of_error_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    mishaps = Mishaps(ManualClock())
    with caplog.at_level(logging.WARNING, "esper.rpc"):
        for method in ("S/A", "S/B"):
            for error in (ValueError("v"), KeyError("k")):
                mishaps.unexpected(method, error)
    assert len(caplog.records) == 4


def test_bytes_are_the_message_or_an_error_that_says_how_many_they_are() -> None:
    request = AdvanceRequest(generation=1, step=2)
    assert parsed(AdvanceRequest, request.SerializeToString()) == request
    with pytest.raises(UnparsableMessage, match=r"its 2 bytes are no serialized esper\.leyline\.v1\.AdvanceRequest"):
        parsed(AdvanceRequest, b"\xff\xff")


class Lacking(ScriptedBus):
    """Lacks what it is asked about, or can't reach who has it."""

    error: Exception = DependencyViolationError("urza", "artefact", "abc", "put it back")

    async def publish(self, request: PublishRequest, call: Call) -> PublishResponse:
        raise self.error


async def test_a_violated_dependency_is_told_with_what_is_missing_and_a_lost_peer_is_none(socket_dir: Path) -> None:
    told: list[Event] = []
    lacking = Lacking()
    server = await start(ServerConfig(listen=f"unix:{socket_dir}/s", grace_s=1.0), [lacking], told.append)
    async with aio_channel(server.endpoint) as link:
        client = BusClient(link)
        for _ in range(3):
            with pytest.raises(DependencyViolationError, match="artefact 'abc' is missing"):
                await client.publish(a_request(), timeout_s=5.0)
        lacking.error = ServiceUnavailable("rpc", "service", "kasmina", "it is away")
        with pytest.raises(ServiceUnavailable):
            await client.publish(a_request(), timeout_s=5.0)
    await server.drain(0.1)
    (event,) = told  # of a flood the first; the rest are a count
    assert event.name == "dependency_guard.violation"
    assert {a.key: a.text for a in event.attributes} == {
        "method": "esper.leyline.v1.BusService/Publish",
        "subsystem": "urza",
        "kind": "artefact",
        "identifier": "abc",
    }


async def test_a_flood_of_violations_is_an_event_and_a_count() -> None:
    clock, told = ManualClock(), list[Event]()
    mishaps = Mishaps(clock, told.append)
    for _ in range(100):
        mishaps.violation("S/A", Lacking.error)  # type: ignore[arg-type]
    clock.advance(WINDOW_S + 1)
    mishaps.violation("S/A", Lacking.error)  # type: ignore[arg-type]
    assert [event.message for event in told[1:]] == ["99 more violated dependencies within 10 s", str(Lacking.error)]
