"""Tamiyo's parts over a directory of the test, with a clock that the test owns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.leyline import SystemMode, TelemetryPacket
from esper.rpc.reporting.alarm import Alarm
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.service.parts import Parts, Surroundings

SECRET = "a secret that is long enough for tests 0123456789"


@dataclass(slots=True)
class KeptTelemetry:
    """A reporter that keeps what it is given."""

    packets: list[TelemetryPacket] = field(default_factory=list)
    mode: SystemMode = SystemMode.SYSTEM_MODE_NORMAL
    dropped: int = 0

    def send(self, packet: TelemetryPacket) -> None:
        self.packets.append(packet)

    def close(self, timeout_s: float) -> None:
        return

    @property
    def events(self) -> list[str]:
        return [event.name for packet in self.packets for event in packet.events]


@dataclass(slots=True)
class Home:
    """Everything outside the service; `parts()` is one life of the process."""

    state_dir: Path
    clock: ManualClock = field(default_factory=ManualClock)
    keyring: Keyring = field(default_factory=lambda: Keyring.from_secret(SECRET))
    telemetry: KeptTelemetry = field(default_factory=KeptTelemetry)
    config: TamiyoConfig = field(default_factory=TamiyoConfig)

    def parts(self) -> Parts:
        return Parts(
            self.config,
            Surroundings(
                keyring=self.keyring,
                clock=self.clock,
                state_dir=self.state_dir,
                reporter=self.telemetry,
                alarm=Alarm(None, self.keyring, self.clock, "tamiyo", self.state_dir / "alarms"),
            ),
        )

    @property
    def signer(self) -> Signer:
        """Signs in Tolaria's place. A fresh ledger fences off its own birth, so a moment passes first."""
        self.clock.advance(0.001)
        return Signer(self.keyring, self.clock)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
async def parts(home: Home) -> AsyncIterator[Parts]:
    made = home.parts()
    yield made
    await made.close()
