"""The whole service in this process, without a network: its database is real, its clock is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.kasmina.server import DATABASE_NAME, KasminaConfig, KasminaService, build_service
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    AdvanceResponse,
    ApplyCommandRequest,
    Blueprint,
    CommandOutcome,
    GetCommandRequest,
    HealthStatus,
    KasminaRunSpec,
    KasminaRunState,
    KasminaServiceGetRunStateRequest,
    KasminaServiceGetStatusRequest,
    KasminaServiceGetStatusResponse,
    KasminaServiceOpenRunRequest,
    KasminaServiceOpenRunResponse,
    ListSeedsRequest,
    ModeUpdate,
    RunStateBlob,
    SeedRecord,
    SignedCommand,
    SystemMode,
    TelemetryPacket,
)
from esper.rpc.process import ServiceContext
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.server.call import RUN_TOKEN, Call
from tests.unit.kasmina.control.making import RUN
from tests.unit.urza.own.making import described, stored

T = TypeVar("T")
SECRET = "correct horse battery staple 0123456789 abcdef"
START_NS = 1_800_000_000 * 1_000_000_000


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop in which time can be skipped, so that what has a timer needn't be waited for."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


class Recorder:
    """A reporter that keeps what it is told."""

    plane = ModeUpdate(mode=SystemMode.SYSTEM_MODE_NORMAL)
    dropped = 0

    def __init__(self) -> None:
        self.packets: list[TelemetryPacket] = []

    def send(self, packet: TelemetryPacket) -> None:
        self.packets.append(packet)

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        return

    def close(self, timeout_s: float) -> None:
        return

    @property
    def events(self) -> list[str]:
        return [event.name for packet in self.packets for event in packet.events]

    @property
    def metrics(self) -> set[str]:
        return {metric.name for packet in self.packets for metric in packet.metrics}


def own_library(artifact_dir: Path) -> tuple[Blueprint, KasminaConfig]:
    """A blueprint of a user's own, and the settings of a service that finds its artefacts."""
    own = stored(described(artifact_dir.with_name("own")), artifact_dir)
    return own, KasminaConfig(artifact_dir=artifact_dir)


class Service:
    """Kasmina over one state directory; `restart` is a crash without losing what was committed."""

    def __init__(self, state_dir: Path, config: KasminaConfig | None = None, keyring: Keyring | None = None) -> None:
        self.clock = ManualClock(now_ns=START_NS)
        self.keyring = keyring or Keyring.from_secret(SECRET)
        self.signer = Signer(self.keyring, self.clock)
        self.recorder = Recorder()
        self.token = ""
        self.runner = asyncio.Runner(loop_factory=SkippingLoop)
        self._state_dir = state_dir
        self._config = config or KasminaConfig()
        self.servicer = self._built()
        self.clock.advance(1)

    def _built(self) -> KasminaService:
        context = ServiceContext(
            name="kasmina",
            config=self._config,
            keyring=self.keyring,
            clock=self.clock,
            state_dir=self._state_dir,
            reporter=self.recorder,
            alarm=Alarm(None, self.keyring, self.clock, "kasmina", self._state_dir / "alarms"),
            weatherlight_tls=None,
            weatherlight=None,
            stop=lambda: None,
        )
        (servicer,) = build_service(context)
        assert isinstance(servicer, KasminaService)
        return servicer

    @property
    def database(self) -> Path:
        return self._state_dir / DATABASE_NAME

    def restart(self) -> None:
        self.run(self.servicer.close())
        self.servicer = self._built()

    def close(self) -> None:
        self.run(self.servicer.close())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Let work go as far as it comes by itself."""

        async def begun() -> asyncio.Task[T]:
            task = asyncio.create_task(work)
            await asyncio.sleep(0)
            return task

        return self.run(begun())

    def skip(self, seconds: float) -> None:
        """Nothing happens for so long: what is due by then ends."""
        loop = self.runner.get_loop()
        assert isinstance(loop, SkippingLoop)
        loop.skipped_s += seconds
        self.run(asyncio.sleep(0))

    @property
    def call(self) -> Call:
        return Call(method="test", metadata={RUN_TOKEN: self.token} if self.token else {})

    def sign(self, message: Any, *, audience: str = f"kasmina/{RUN}", freshness_s: float = 60.0) -> SignedCommand:
        self.clock.advance(0.001)
        return self.signer.sign(message, audience=audience, freshness_s=freshness_s)

    def open(self, run: KasminaRunSpec) -> KasminaServiceOpenRunResponse:
        opened = self.run(self.servicer.open_run(KasminaServiceOpenRunRequest(command=self.sign(run)), self.call))
        self.token = opened.run_token
        return opened

    def apply(self, command: AdaptationCommand | SignedCommand) -> CommandOutcome:
        envelope = command if isinstance(command, SignedCommand) else self.sign(command)
        return self.run(self.servicer.apply_command(ApplyCommandRequest(command=envelope), self.call)).outcome

    def advance(self, request: AdvanceRequest) -> AdvanceResponse:
        return self.run(self.servicer.advance(request, self.call))

    def outcome_of(self, command_id: str) -> CommandOutcome | None:
        found = self.run(self.servicer.get_command(GetCommandRequest(command_id=command_id), self.call))
        return found.outcome if found.found else None

    def blob(self) -> RunStateBlob:
        return self.run(self.servicer.get_run_state(KasminaServiceGetRunStateRequest(), self.call)).state

    def state(self) -> KasminaRunState:
        return KasminaRunState.FromString(self.blob().state)

    def seeds(self) -> list[SeedRecord]:
        return list(self.run(self.servicer.list_seeds(ListSeedsRequest(), self.call)).seeds)

    def status(self) -> KasminaServiceGetStatusResponse:
        return self.run(self.servicer.get_status(KasminaServiceGetStatusRequest(), Call(method="test")))
