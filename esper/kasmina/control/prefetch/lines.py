"""How requests reach Urza and answers come back: over the bus, or without one to the store of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from esper.core.clock import Clock
from esper.core.errors import ContractError, EsperError, InvalidSignature
from esper.core.messages.validation import require_valid
from esper.core.process.outage import Outage
from esper.core.process.worker import AsyncWorker
from esper.core.security.keys import Keyring
from esper.core.tracing import current_trace
from esper.leyline import (
    BusEnvelope,
    BusLane,
    ConsumeRequest,
    KernelArtifactError,
    KernelArtifactReady,
    KernelPrefetchRequest,
    MessagePriority,
    PublishRequest,
)
from esper.oona.envelope import check, seal
from esper.rpc.auth import service_metadata
from esper.rpc.clients import Tls
from esper.rpc.clients.aio import BusClient, aio_channel
from esper.urza.artifacts import ArtifactStore
from esper.urza.prefetch import Answer, answer

SOURCE = "kasmina"
PUBLISH_TIMEOUT_S = 5.0
STREAM_TIMEOUT_S = 86_400.0
RETRY_S = 0.2
ANSWERS = {kind.DESCRIPTOR.full_name: kind for kind in (KernelArtifactReady, KernelArtifactError)}
log = logging.getLogger("esper.kasmina")


class Line(Protocol):
    """A way to Urza."""

    async def ask(self, request: KernelPrefetchRequest, on_answer: Callable[[Answer], None]) -> None:
        """Return once the request can't be lost any more; its answer comes by `on_answer`, now or later."""

    async def close(self) -> None:
        """Hear no more."""


class DirectLine:
    """Without a bus: the store of this process, read by its worker."""

    def __init__(self, store: ArtifactStore, worker: AsyncWorker, timeout_s: float) -> None:
        self._store = store
        self._worker = worker
        self._timeout_s = timeout_s

    async def ask(self, request: KernelPrefetchRequest, on_answer: Callable[[Answer], None]) -> None:
        on_answer(
            await self._worker.run(lambda: answer(self._store, request), name="artefact", timeout_s=self._timeout_s)
        )

    async def close(self) -> None:
        """There is nothing to hear."""


class BusLine:
    """Over the bus. It is first reached for by the first request, and again for as long as it can't be reached.

    An answer stands after its request, and nobody but this process waits for it: so answers are followed from the first
    request on, and the bus keeps no account of what was heard.
    """

    def __init__(self, endpoint: str, tls: Tls | None, keyring: Keyring, clock: Clock) -> None:
        self._endpoint, self._tls = endpoint, tls
        self._keyring = keyring
        self._clock = clock
        self._channel = aio_channel(endpoint, tls)
        self._client = BusClient(self._channel, metadata=service_metadata(keyring, SOURCE))
        self._outage = Outage(log, clock)
        self._listening: asyncio.Task[None] | None = None
        self._after = 0
        """Position of the newest answer that was heard, or of a request before it."""
        self._on_answer: Callable[[Answer], None] = lambda told: None

    async def ask(self, request: KernelPrefetchRequest, on_answer: Callable[[Answer], None]) -> None:
        """Publishes until it is stored; the bus stores a repeated request once."""
        self._on_answer = on_answer
        envelope = seal(
            self._keyring,
            self._clock,
            request,
            source=SOURCE,
            lane=BusLane.BUS_LANE_KERNEL_REQUESTS,
            priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
            event_id=request.request_id,
            trace=current_trace(),
        )
        while True:
            try:
                stored = await self._client.publish(PublishRequest(envelopes=[envelope]), timeout_s=PUBLISH_TIMEOUT_S)
                return self._follow(stored.sequences[0])
            except EsperError as error:
                self._outage.warn("prefetch requests can't be published", error)
                await asyncio.sleep(RETRY_S)

    def _follow(self, sequence: int) -> None:
        """Hear what comes after this request; one that stands before what was heard is of a log that began anew."""
        if self._listening is not None and sequence >= self._after:
            return
        if self._listening is not None:
            self._listening.cancel()
        self._after = sequence
        listening = self._outage.outlasted(self._hear, "prefetch answers can't be heard", RETRY_S)
        self._listening = asyncio.create_task(listening, name="prefetch answers")

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        await self._channel.close()

    async def _hear(self) -> None:
        lanes = [BusLane.BUS_LANE_KERNEL_ANSWERS]
        opening = ConsumeRequest(consumer=SOURCE, lanes=lanes, after_sequence=self._after)
        async for response in self._client.consume(_alone(opening), timeout_s=STREAM_TIMEOUT_S):
            self._take(response.envelope)
            self._after = response.envelope.sequence

    def _take(self, envelope: BusEnvelope) -> None:
        """Give on what can be believed; the rest would not be better if it came again."""
        kind = ANSWERS.get(envelope.payload_type)
        if kind is None:
            return
        try:
            check(self._keyring, envelope, self._clock.now_ns())
            told = kind.FromString(envelope.payload)
            require_valid(told)
        except (InvalidSignature, ContractError) as error:
            log.error("answer %s from %s refused: %s", envelope.event_id, envelope.source, error)
            return
        self._on_answer(told)


async def _alone(opening: ConsumeRequest) -> AsyncIterator[ConsumeRequest]:
    yield opening
