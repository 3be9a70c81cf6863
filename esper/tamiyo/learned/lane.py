"""The policy lane: signed updates from the bus, each believed only by its seal, its own signature and its nonce."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from esper.core.clock import Clock
from esper.core.errors import CommandRejected, ContractError, InvalidSignature
from esper.core.process.outage import Outage
from esper.core.security.keys import Keyring
from esper.core.security.signing import Verifier, open_payload
from esper.core.tracing import context_of, tracer
from esper.leyline import BusEnvelope, BusLane, ConsumeRequest, PolicyUpdate, PolicyUpdateRejection, SignedCommand
from esper.oona.envelope import check
from esper.rpc.clients.aio import BusClient
from esper.tamiyo.learned.adoption import Adoption
from esper.tamiyo.runs import RunBook

AUDIENCE = "tamiyo-policy"
"""No run's audience begins like this: those are "tamiyo/" and the run."""
GROUP = "tamiyo"
RETRY_S = 1.0
STREAM_TIMEOUT_S = 3600.0
_tracer = tracer("esper.tamiyo")
log = logging.getLogger("esper.tamiyo")
UNAUTHENTIC = PolicyUpdateRejection.POLICY_UPDATE_REJECTION_UNAUTHENTIC
REPLAYED = PolicyUpdateRejection.POLICY_UPDATE_REJECTION_REPLAYED


class PolicyLane:
    """Hears updates for as long as the service lives."""

    def __init__(self, client: BusClient, keyring: Keyring, clock: Clock, runs: RunBook, adoption: Adoption) -> None:
        self._client = client
        self._keyring = keyring
        self._clock = clock
        self._verifier = Verifier(keyring, clock)
        self._runs = runs
        self._adoption = adoption
        self._outage = Outage(log, clock)
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        listening = self._outage.outlasted(self._hear, "policy updates can't be heard", RETRY_S)
        self._listening = asyncio.create_task(listening, name="policy updates")

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening

    async def take(self, envelope: BusEnvelope) -> None:
        """Act on one envelope as part of its trace."""
        context = context_of(envelope.trace if envelope.HasField("trace") else None)
        with _tracer.start_as_current_span("tamiyo.policy.take", context, attributes={"esper.keep": True}):
            await self._take(envelope)

    async def _take(self, envelope: BusEnvelope) -> None:
        """What can't be believed is told and forgotten: it would come again no better."""
        try:
            check(self._keyring, envelope, self._clock.now_ns())
            signed = SignedCommand.FromString(envelope.payload)
            self._verifier.verify(signed, audience=AUDIENCE, payload_type=PolicyUpdate.DESCRIPTOR.full_name)
            update = open_payload(signed, PolicyUpdate)
        except (CommandRejected, InvalidSignature, ContractError, ValueError) as error:
            self._adoption.refuse("", "", UNAUTHENTIC, f"{envelope.event_id}: {error}")
            return
        try:
            await self._runs.spend(signed.security)
        except CommandRejected as error:
            self._adoption.refuse("", update.version, REPLAYED, f"{update.update_id}: {error}")
            return
        self._adoption.take(update)

    async def _hear(self) -> None:
        handled: asyncio.Queue[str] = asyncio.Queue()

        async def requests() -> AsyncIterator[ConsumeRequest]:
            yield ConsumeRequest(group=GROUP, consumer=GROUP, lanes=[BusLane.BUS_LANE_POLICY])
            while True:
                yield ConsumeRequest(acknowledged_event_ids=[await handled.get()])

        async for response in self._client.consume(requests(), timeout_s=STREAM_TIMEOUT_S):
            await self.take(response.envelope)
            handled.put_nowait(response.envelope.event_id)
