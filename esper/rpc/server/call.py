"""What a servicer is told about the call that it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

RUN_TOKEN = "esper-run-token"
SERVICE = "esper-service"
SERVICE_TOKEN = "esper-service-token"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call in flight. Tokens are as they arrived: the servicer judges them."""

    method: str
    peer: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadline_monotonic_s: float = float("inf")
    draining: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def run_token(self) -> str | None:
        return self.metadata.get(RUN_TOKEN)

    @property
    def service(self) -> str | None:
        return self.metadata.get(SERVICE)

    @property
    def service_token(self) -> str | None:
        return self.metadata.get(SERVICE_TOKEN)

    @property
    def token(self) -> str:
        """Whose call it says it is, by the token that came with it; without one, by where it is from."""
        return self.run_token or self.service_token or self.peer

    @property
    def remaining_s(self) -> float:
        """Seconds until the caller stops waiting."""
        return max(0.0, self.deadline_monotonic_s - time.monotonic())
