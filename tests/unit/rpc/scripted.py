"""A bus servicer that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.leyline import (
    BusEnvelope,
    BusLane,
    ConsumeRequest,
    ConsumeResponse,
    MessagePriority,
    PublishRequest,
    PublishResponse,
    RunClosure,
)
from esper.oona.envelope import seal
from esper.rpc.server.bases import BusServicer
from esper.rpc.server.call import Call

SECRET = "test-secret-0123456789-abcdefghijklm"
KEYRING = Keyring.from_secret(SECRET)

Answer = Callable[[PublishRequest, Call], Awaitable[PublishResponse]]


def an_envelope(event_id: str = "e1", size_bytes: int = 0) -> BusEnvelope:
    """A valid envelope around some message."""
    return seal(
        KEYRING,
        SYSTEM_CLOCK,
        RunClosure(reason="x" * size_bytes),
        source="test",
        lane=BusLane.BUS_LANE_NORMAL,
        priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
        event_id=event_id,
    )


def a_request(count: int = 1, size_bytes: int = 0) -> PublishRequest:
    """A valid request."""
    return PublishRequest(envelopes=[an_envelope(f"e{i}", size_bytes) for i in range(count)])


class ScriptedBus(BusServicer):
    """Publish runs the given function; Consume echoes groups, or hangs after the first message when told so."""

    def __init__(self, answer: Answer | None = None, *, hangs: bool = False) -> None:
        self.calls: list[Call] = []
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.closed = False
        self._answer = answer
        self._hangs = hangs

    async def publish(self, request: PublishRequest, call: Call) -> PublishResponse:
        self.calls.append(call)
        self.entered.set()
        try:
            if self._answer is not None:
                return await self._answer(request, call)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return PublishResponse(sequences=range(1, len(request.envelopes) + 1))

    async def consume(self, requests: AsyncIterator[ConsumeRequest], call: Call) -> AsyncIterator[ConsumeResponse]:
        self.calls.append(call)
        async for request in requests:
            yield ConsumeResponse(envelope=an_envelope(request.group))
            if self._hangs:
                await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True
