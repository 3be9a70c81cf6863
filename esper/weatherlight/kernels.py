"""Urza at the bus: requests for artefacts are verified by a worker, several at a time, and answered.

No group keeps what was handled: who asked waits for seconds only, so a process that begins looks at the requests of
those seconds, and an answer that was given before is stored once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from esper.core.clock import NS_PER_S, Clock, nanoseconds
from esper.core.errors import ContractError, EsperError, InvalidSignature
from esper.core.messages.validation import require_valid
from esper.core.process.worker import AsyncWorker
from esper.core.security.keys import Keyring
from esper.core.tracing import context_of, current_trace, tracer
from esper.leyline import BusEnvelope, BusLane, KernelArtifactError, KernelPrefetchRequest, MessagePriority
from esper.oona.bus import Bus
from esper.oona.envelope import check, seal
from esper.oona.following import followed
from esper.urza.artifacts import ArtifactStore
from esper.urza.prefetch import Answer, answer
from esper.weatherlight.routing import Router

SOURCE = "urza"
LANES = (BusLane.BUS_LANE_KERNEL_REQUESTS,)
MAX_AT_ONCE = 32
MAX_THREADS = 8
PAGE = 128
WAIT_S = 1.0
STALE_S = 30.0
VERIFY_TIMEOUT_S = 30.0
log = logging.getLogger("esper.weatherlight")
_tracer = tracer("esper.urza")
Work = Callable[[KernelPrefetchRequest], Answer]


class Kernels:
    """Answers requests for artefacts for as long as it runs."""

    def __init__(self, store: ArtifactStore, router: Router, keyring: Keyring, clock: Clock) -> None:
        self.worker = AsyncWorker(MAX_THREADS)
        self.answered = self.refused = 0
        self._work: Work = partial(answer, store)
        self._router = router
        self._keyring = keyring
        self._clock = clock

    async def run(self, bus: Bus) -> None:
        """Follow the bus for ever."""
        places = asyncio.Semaphore(MAX_AT_ONCE)
        async with asyncio.TaskGroup() as under_way:
            async for page in followed(bus, LANES, 0, PAGE, WAIT_S):
                for envelope in page:
                    if self._is_stale(envelope.time):  # of thousands that an earlier process answered
                        continue
                    await places.acquire()
                    task = under_way.create_task(self._handled(envelope))
                    task.add_done_callback(lambda _: places.release())

    async def _handled(self, envelope: BusEnvelope) -> None:
        request = self._believed(envelope)
        if request is None:
            return
        context = context_of(envelope.trace) if envelope.HasField("trace") else None
        attributes = {"esper.run.id": request.training_run_id, "esper.blueprint.id": request.blueprint_id}
        with _tracer.start_as_current_span("urza.verify", context, attributes=attributes):
            await self._router.publish([self._sealed(await self._verified(request))])
        self.answered += 1

    def _believed(self, envelope: BusEnvelope) -> KernelPrefetchRequest | None:
        """The request; None for one that can't be believed, which is counted, or that nobody waits for any more."""
        if envelope.payload_type != KernelPrefetchRequest.DESCRIPTOR.full_name:
            return None
        try:
            check(self._keyring, envelope, self._clock.now_ns())
            request = KernelPrefetchRequest.FromString(envelope.payload)
            require_valid(request)
        except (InvalidSignature, ContractError, DecodeError) as error:
            self.refused += 1
            log.error("request %s from %s refused: %s", envelope.event_id, envelope.source, error)
            return None
        return None if self._is_stale(request.issued_at) else request

    def _is_stale(self, time: Timestamp) -> bool:
        return self._clock.now_ns() - nanoseconds(time) > STALE_S * NS_PER_S

    async def _verified(self, request: KernelPrefetchRequest) -> Answer:
        try:
            return await self.worker.run(partial(self._work, request), name="artefact", timeout_s=VERIFY_TIMEOUT_S)
        except EsperError as error:
            return KernelArtifactError(
                request_id=request.request_id, blueprint_id=request.blueprint_id, reason=str(error)
            )

    def _sealed(self, told: Answer) -> BusEnvelope:
        return seal(
            self._keyring,
            self._clock,
            told,
            source=SOURCE,
            lane=BusLane.BUS_LANE_KERNEL_ANSWERS,
            priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
            event_id=f"{told.request_id}-answer",
            trace=current_trace(),
        )
