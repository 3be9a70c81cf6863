"""Whatever bytes reach any RPC of any service: never UNKNOWN, never INTERNAL, and never a log without bound."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.kasmina.server import KasminaConfig, build_service
from esper.leyline import (
    AdvanceRequest,
    ControlRequest,
    DrainOrder,
    EmergencyAcknowledgement,
    EmergencySignal,
    EvaluateRequest,
    HealthStatus,
    KasminaServiceOpenRunRequest,
    KasminaServiceOpenRunResponse,
    ModeUpdate,
    PolicyUpdate,
    PublishTelemetryRequest,
    RegistryReset,
    RollbackDeadlineSignal,
    RunClosure,
    SignedCommand,
    SystemMode,
    TamiyoServiceOpenRunRequest,
    TamiyoServiceOpenRunResponse,
    TeacherRegistration,
    TeacherReset,
    TelemetryPacket,
)
from esper.rpc.auth import service_metadata
from esper.rpc.contract import SERVICES, Method, methods
from esper.rpc.process import ServiceContext
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.server.bases import Servicer
from esper.rpc.server.call import RUN_TOKEN
from esper.rpc.server.server import Server, ServerConfig, start
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.server import build as build_tamiyo
from esper.weatherlight.config import WeatherlightConfig
from esper.weatherlight.server import build as build_weatherlight
from tests.unit.kasmina.control import making
from tests.unit.rpc.hostile import messages, with_an_edge
from tests.unit.tamiyo import builders

KEYRING = Keyring.from_secret("hostile-secret-0123456789-abcdefghijklm")
METHODS = {method.full_name: method for service in SERVICES for method in methods(service).values()}
RUN = "run-1"
FEW_S = 0.15  # a stream without an end is heard for this long
OUR_FAULT = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
# What a client makes of a stream whose answer came while it was still sending.
ENDED_MEANWHILE = "Internal error from Core"
MAX_LOG_LINES = 200  # signed requests are told one by one

# What each signed request carries.
SIGNED: dict[str, Message] = {
    "KasminaService/OpenRun": making.spec(generation=1),
    "KasminaService/CloseRun": RunClosure(training_run_id=RUN, generation=0, step=3, reason="done"),
    "KasminaService/ApplyCommand": making.germinate(step=0),
    "KasminaService/RegisterTeacher": TeacherRegistration(
        training_run_id=RUN, teacher_id="t", weights_digest="0" * 64, size_bytes=9
    ),
    "KasminaService/ResetTeacher": TeacherReset(training_run_id=RUN, rationale="why"),
    "KasminaService/ResetRegistry": RegistryReset(training_run_id=RUN, rationale="why"),
    "TamiyoService/OpenRun": builders.spec(),
    "TamiyoService/CloseRun": RunClosure(training_run_id=RUN, generation=0, step=3, reason="done"),
    "TamiyoService/ApplyPolicyUpdate": PolicyUpdate(update_id="u1"),
    "WeatherlightService/RaiseEmergency": EmergencySignal(emergency_id="e", level=1, cause="c", detail="d", origin="o"),
    "WeatherlightService/SignalRollbackDeadline": RollbackDeadlineSignal(
        training_run_id=RUN, generation=0, step=1, deadline_ms=2.0, elapsed_ms=3.0
    ),
    "WeatherlightService/AcknowledgeEmergency": EmergencyAcknowledgement(
        emergency_id="e", acknowledged_by="me", resolved=True
    ),
    "WeatherlightService/Drain": DrainOrder(rationale="why"),
}
# Good requests to damage, where one built from the descriptor alone would seldom be let in.
GOOD: dict[str, Message] = {
    "KasminaService/Advance": AdvanceRequest(generation=0, step=1),
    "TamiyoService/Evaluate": EvaluateRequest(packet=builders.packet(10)),
    "TamiyoService/Control": ControlRequest(packet=builders.packet(20)),
}


class NoReporter:
    """Takes telemetry and forgets it."""

    plane = ModeUpdate(mode=SystemMode.SYSTEM_MODE_NORMAL)
    dropped = 0

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        return

    def send(self, packet: TelemetryPacket) -> None:
        return

    def close(self, timeout_s: float) -> None:
        return


class Lines(logging.Handler):
    """What the log of the process got."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).splitlines()


@dataclass(kw_only=True)
class Plane:
    """Every service of the plane in one server on loopback, and a client that sends bytes."""

    runner: asyncio.Runner
    server: Server
    servicers: list[Servicer]
    channel: grpc.aio.Channel
    log: Lines
    tokens: dict[str, str] = field(default_factory=dict)
    last_details: str | None = None

    def call(self, method: Method, raws: list[bytes]) -> grpc.StatusCode:
        return self.runner.run(self._call(method, raws))

    async def _call(self, method: Method, raws: list[bytes]) -> grpc.StatusCode:
        service = method.service.rpartition(".")[2]
        metadata = [*service_metadata(KEYRING, "operator").items(), (RUN_TOKEN, self.tokens.get(service, "none"))]
        make = getattr(self.channel, method.shape)(method.path)
        request: Any = _each(raws) if method.requests_stream else raws[0]
        limit_s = FEW_S if method.requests_stream or method.responses_stream else 20.0
        call = make(request, timeout=limit_s, metadata=metadata)
        try:
            if method.responses_stream:
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            self.last_details = error.details()
            return error.code()
        return grpc.StatusCode.OK

    def open_runs(self) -> None:
        signer = Signer(KEYRING, SYSTEM_CLOCK)
        for service, spec, request, response in (
            ("KasminaService", making.spec(), KasminaServiceOpenRunRequest, KasminaServiceOpenRunResponse),
            ("TamiyoService", builders.spec(), TamiyoServiceOpenRunRequest, TamiyoServiceOpenRunResponse),
        ):
            audience = f"{service.removesuffix('Service').lower()}/{RUN}"
            raw = request(command=signer.sign(spec, audience=audience)).SerializeToString()
            path = methods(service)["open_run"].path
            opened: Any = self.runner.run(_unary(self.channel, path, raw))
            self.tokens[service] = response.FromString(opened).run_token


async def _unary(channel: grpc.aio.Channel, path: str, raw: bytes) -> bytes:
    answer: bytes = await channel.unary_unary(path)(raw, timeout=20.0)
    return answer


async def _each(raws: list[bytes]) -> AsyncIterator[bytes]:
    for raw in raws:
        yield raw


def context(name: str, config: Any, directory: Path) -> ServiceContext[Any]:
    return ServiceContext(
        name=name,
        config=config,
        keyring=KEYRING,
        clock=SYSTEM_CLOCK,
        state_dir=directory,
        reporter=NoReporter(),
        alarm=Alarm(None, KEYRING, SYSTEM_CLOCK, name, directory / "alarms" / name),
        weatherlight=None,
        weatherlight_tls=None,
        stop=lambda grace_s: None,
    )


async def build(directory: Path) -> tuple[Server, list[Servicer]]:
    servicers: list[Servicer] = [
        *build_service(context("kasmina", KasminaConfig(), directory)),
        *build_tamiyo(context("tamiyo", TamiyoConfig(), directory)),
        *await build_weatherlight(context("weatherlight", WeatherlightConfig(), directory)),
    ]
    return await start(ServerConfig(listen="127.0.0.1:0"), servicers), servicers


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    log = Lines()
    logging.getLogger().addHandler(log)
    with tempfile.TemporaryDirectory(prefix="esper-") as name, asyncio.Runner() as runner:
        server, servicers = runner.run(build(Path(name)))

        async def connect() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(str(server.endpoint))

        made = Plane(runner=runner, server=server, servicers=servicers, channel=runner.run(connect()), log=log)
        made.open_runs()
        yield made

        async def close() -> None:
            await made.channel.close()
            await server.drain(0.1)
            for servicer in servicers:
                await servicer.close()

        runner.run(close())
    logging.getLogger().removeHandler(log)


def _unexpected(method: str) -> float:
    found = REGISTRY.get_sample_value("rpc_server_unexpected_errors_total", {"method": method})
    return found or 0.0


@pytest.mark.parametrize("name", METHODS, ids=lambda name: name.rpartition(".")[2])
def test_bytes_that_are_no_message_are_an_invalid_argument(plane: Plane, name: str) -> None:
    for raw in (b"\xff" * 40, b"\x0a\xff", b"\x08"):
        assert plane.call(METHODS[name], [raw]) is grpc.StatusCode.INVALID_ARGUMENT


FOREIGN = [
    ("grpc.health.v1.Health", "Check", False, False),
    ("grpc.health.v1.Health", "Watch", False, True),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", True, True),
]


@pytest.mark.parametrize(("service", "name", "sends", "gets"), FOREIGN, ids=[name for _, name, *_ in FOREIGN])
def test_the_same_holds_for_the_services_that_come_with_grpc(
    plane: Plane, service: str, name: str, sends: bool, gets: bool
) -> None:
    foreign = Method(
        service=service, name=name, request=Empty, response=Empty, requests_stream=sends, responses_stream=gets
    )
    before = len(plane.log.lines)
    for _ in range(20):
        assert plane.call(foreign, [b"\xff" * 8]) is grpc.StatusCode.INVALID_ARGUMENT
    assert len(plane.log.lines) == before + 1
    assert plane.call(foreign, [b""]) in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_flood_of_them_is_a_line_for_each_method(plane: Plane) -> None:
    before = len(plane.log.lines)
    method = METHODS["esper.leyline.v1.KasminaService/Advance"]
    for _ in range(300):
        plane.call(method, [b"\xff"])
    assert len(plane.log.lines) - before <= 2
    assert not any("Traceback" in line for line in plane.log.lines)


@dataclass(frozen=True)
class Sent:
    """An RPC and what is sent to it."""

    method: Method
    raws: list[bytes]

    def __repr__(self) -> str:
        return f"{self.method.full_name} {[raw[:200] for raw in self.raws]}"


@st.composite
def hostile(draw: st.DrawFn) -> Sent:
    method = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    if draw(st.integers(0, 9)) == 0:
        return Sent(method, [draw(st.binary(max_size=200))])
    count = draw(st.integers(1, 3)) if method.requests_stream else 1
    return Sent(method, [draw(_request(method)).SerializeToString() for _ in range(count)])


def _request(method: Method) -> st.SearchStrategy[Message]:
    name = f"{method.service.rpartition('.')[2]}/{method.name}"
    if name in SIGNED:
        base = SIGNED[name]
        payloads = with_an_edge(base) | with_an_edge(base) | messages(base.DESCRIPTOR)
        return payloads.map(lambda payload: _signed(method, payload))
    if name in GOOD:
        return with_an_edge(GOOD[name]) | messages(method.request.DESCRIPTOR)
    return messages(method.request.DESCRIPTOR)


def _signed(method: Method, payload: Any) -> Message:
    """The request around a payload that is signed as it should be."""
    service = method.service.rpartition(".")[2].removesuffix("Service").lower()
    run = getattr(payload, "training_run_id", "") or ("-" if service == "weatherlight" else RUN)
    command: SignedCommand = Signer(KEYRING, SYSTEM_CLOCK).sign(payload, audience=f"{service}/{run}")
    request: Any = method.request()
    request.command.CopyFrom(command)
    if method.name == "CloseRun":  # the run stays open for the other examples
        request.command.security.signature = "0" * 64
    return request


def test_no_request_is_answered_with_our_fault(plane: Plane) -> None:
    seen: set[str] = set()

    @settings(
        max_examples=300,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(hostile())
    def probe(sent: Sent) -> None:
        code = plane.call(sent.method, sent.raws)
        seen.add(code.name)
        assert code not in OUR_FAULT or plane.last_details == ENDED_MEANWHILE, (plane.last_details, sent)

    before, known = len(plane.log.lines), sum(map(_unexpected, METHODS))
    probe()
    assert {"OK", "INVALID_ARGUMENT"} <= seen
    assert sum(map(_unexpected, METHODS)) - known == 0, "the process's count, which other tests raise on purpose"
    told = plane.log.lines[before:]
    assert len(told) <= MAX_LOG_LINES
    assert not any("Traceback" in line for line in told)
    for servicer in plane.servicers:
        assert servicer.is_ready()


def test_the_same_answers_come_where_a_counter_overflows(plane: Plane) -> None:
    publish = METHODS["esper.leyline.v1.WeatherlightService/PublishTelemetry"]
    for _ in range(3):
        most = PublishTelemetryRequest(dropped=2**63 - 1).SerializeToString()
        assert plane.call(publish, [most]) is grpc.StatusCode.OK
    beyond = PublishTelemetryRequest(dropped=2**63).SerializeToString()
    assert plane.call(publish, [beyond]) is grpc.StatusCode.INVALID_ARGUMENT
    status = METHODS["esper.leyline.v1.WeatherlightService/GetStatus"]
    assert plane.call(status, [b""]) is grpc.StatusCode.OK
