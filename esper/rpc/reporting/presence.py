"""What Weatherlight is told about a process: who it is, where, how it feels, and when that was last told."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import time
from dataclasses import dataclass, field

from esper.leyline import HealthStatus, HeartbeatRequest, RegisterServiceRequest


@dataclass(slots=True)
class Presence:
    """What Weatherlight is told about this process, and when it was told."""

    service: str
    endpoint: str | None
    instance: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    health: HealthStatus = HealthStatus.HEALTH_STATUS_HEALTHY
    summary: str = ""
    run: str | None = None
    is_registered: bool = False
    interval_s: float = 0.0
    last_beat_s: float = 0.0

    def is_due(self) -> bool:
        return not self.is_registered or time.monotonic() - self.last_beat_s >= self.interval_s

    def noted(self) -> None:
        """The sign of life was heard."""
        self.last_beat_s = time.monotonic()

    def registration(self) -> RegisterServiceRequest:
        return RegisterServiceRequest(
            service=self.service, instance=self.instance, endpoint=self.endpoint, version=_version()
        )

    def heartbeat(self, *, is_leaving: bool = False) -> HeartbeatRequest:
        return HeartbeatRequest(
            service=self.service,
            instance=self.instance,
            health=self.health,
            summary=self.summary or None,
            is_leaving=is_leaving,
            training_run_id=self.run,
        )


def _version() -> str:
    try:
        return importlib.metadata.version("esper")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"
