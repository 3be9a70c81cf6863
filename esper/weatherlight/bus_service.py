"""The bus over grpc: publications are checked and stored, consumers get what their group has not handled.

Who follows lanes from a position on has no group: nothing is written for what it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from esper.core.clock import Clock, timestamp
from esper.core.dependency_guard import require
from esper.core.errors import ContractError
from esper.core.security.keys import Keyring
from esper.leyline import BusLane, ConsumeRequest, ConsumeResponse, PublishRequest, PublishResponse
from esper.oona.bus import LANES, Bus
from esper.oona.envelope import check, require_valid_payload
from esper.oona.following import followed
from esper.rpc.auth import require_service
from esper.rpc.server.bases import BusServicer
from esper.rpc.server.call import Call
from esper.rpc.tasks import call_task
from esper.weatherlight.routing import Router

DEFAULT_IN_FLIGHT = 64
MAX_IN_FLIGHT = 1024
# The bus is asked again this often, also where nothing was heard of anything new.
FOLLOW_S = 5.0
DEAD = BusLane.BUS_LANE_DEAD_LETTERS
DEAD_NAME = BusLane.Name(DEAD)
EVERY_GROUP = "*"
HINT = "`esper bus dlq list` shows those that are kept; it may have been settled before"


class BusService(BusServicer):
    """Serves one bus."""

    def __init__(self, bus: Bus, router: Router, keyring: Keyring, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._router = router
        self._keyring = keyring

    async def publish(self, request: PublishRequest, call: Call) -> PublishResponse:
        require_service(call, self._keyring)
        for envelope in request.envelopes:
            check(self._keyring, envelope, self._clock.now_ns())
            require_valid_payload(envelope)
            if envelope.lane not in LANES:
                raise ContractError("PublishRequest", [f"{envelope.event_id!r}: nothing is published on {DEAD_NAME}"])
        stored = await self._router.publish(request.envelopes)
        return PublishResponse(sequences=[each.sequence for each in stored])

    async def consume(self, requests: AsyncIterator[ConsumeRequest], call: Call) -> AsyncIterator[ConsumeResponse]:
        require_service(call, self._keyring)
        opening = await anext(requests, None)
        if opening is None:
            return
        _require_opening(opening)
        if opening.HasField("after_sequence"):
            async for response in self._followed(opening):
                yield response
            return
        if list(opening.lanes) == [DEAD]:
            async for response in self._dead_letters(opening, requests):
                yield response
            return
        # Of an earlier line of the same consumer nothing will be settled any more.
        await self._bus.release(opening.group, opening.consumer)
        consumer = _Consumer(self._bus, opening)
        settling = call_task(consumer.settle(requests))
        try:
            while not settling.done():
                for response in await consumer.next_page():
                    yield response
                await consumer.pause(settling)
            await settling
        finally:
            settling.cancel()
            await self._bus.release(opening.group, opening.consumer)

    async def _followed(self, opening: ConsumeRequest) -> AsyncIterator[ConsumeResponse]:
        """What is in the lanes after a position, for as long as the call lasts."""
        pages = followed(self._bus, opening.lanes, opening.after_sequence, DEFAULT_IN_FLIGHT, FOLLOW_S)
        async for page in pages:
            for envelope in page:
                yield ConsumeResponse(envelope=envelope)

    async def _dead_letters(
        self, opening: ConsumeRequest, requests: AsyncIterator[ConsumeRequest]
    ) -> AsyncIterator[ConsumeResponse]:
        """Tell of every letter, then do with them what is asked for."""
        group = None if opening.group == EVERY_GROUP else opening.group
        async for letter in self._bus.dead_letters(group):
            put_aside_at = timestamp(letter.stored_ns)
            yield ConsumeResponse(envelope=letter.envelope, refused_by=letter.group, put_aside_at=put_aside_at)
        async for request in requests:
            if group is None:
                remedy = f"group is {EVERY_GROUP!r}, which only looks: open the stream of the group that gave them up"
                raise ContractError("ConsumeRequest", [remedy])
            for settle, wanted in (
                (self._bus.drop, request.acknowledged_event_ids),
                (self._bus.requeue, request.rejected_event_ids),
            ):
                if wanted:
                    _require_found(group, wanted, await settle(group, wanted))


def _require_found(group: str, asked: Sequence[str], found: Sequence[str]) -> None:
    """Raise for the first that is no dead letter; the others were settled."""
    for event_id in asked:
        require(True if event_id in found else None, "oona", f"dead letter of group {group}", event_id, HINT)


class _Consumer:
    """One consumer of a group: what it was given and has not settled."""

    def __init__(self, bus: Bus, opening: ConsumeRequest) -> None:
        self._bus = bus
        self._opening = opening
        self._limit = min(opening.max_in_flight or DEFAULT_IN_FLIGHT, MAX_IN_FLIGHT)
        self._held: set[str] = set()
        self._settled = asyncio.Event()
        self._seen = 0

    async def next_page(self) -> list[ConsumeResponse]:
        """What there is now, as far as the consumer has room."""
        self._settled.clear()
        self._seen = await self._bus.last_sequence()
        room = self._limit - len(self._held)
        if room <= 0:
            return []
        found = await self._bus.fetch(self._opening.group, self._opening.consumer, self._opening.lanes, room)
        self._held.update(envelope.event_id for envelope in found)
        return [ConsumeResponse(envelope=envelope) for envelope in found]

    async def pause(self, settling: asyncio.Task[None]) -> None:
        """Wait for something new, for room where there is none, or until something may be due again."""
        stored = call_task(self._bus.wait(self._seen, FOLLOW_S, self._opening.lanes, self._opening.group))
        settled = call_task(self._settled.wait())
        waits = {settled, settling} if len(self._held) >= self._limit else {settling, stored}
        try:
            await asyncio.wait(waits, timeout=FOLLOW_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stored.cancel()
            settled.cancel()

    async def settle(self, requests: AsyncIterator[ConsumeRequest]) -> None:
        """Take acknowledgements and rejections until the consumer ends its stream."""
        group = self._opening.group
        async for request in requests:
            if request.acknowledged_event_ids:
                await self._bus.acknowledge(group, request.acknowledged_event_ids)
            if request.rejected_event_ids:
                await self._bus.reject(group, request.rejected_event_ids)
            self._held.difference_update(request.acknowledged_event_ids, request.rejected_event_ids)
            self._settled.set()


def _require_opening(request: ConsumeRequest) -> None:
    follows = request.HasField("after_sequence")
    wanted = ("consumer",) if follows else ("group", "consumer")
    missing = [f"{name} is required in the first message" for name in wanted if not getattr(request, name)]
    if follows and request.group:
        missing.append(f"group is {request.group!r} and after_sequence {request.after_sequence}: give one of them")
    unknown = [lane for lane in request.lanes if lane not in LANES]
    if not request.lanes or (unknown and (follows or list(request.lanes) != [DEAD])):
        known = ", ".join(BusLane.Name(lane) for lane in LANES)
        missing.append(f"lanes must name at least one of {known}, or {DEAD_NAME} alone")
    if missing:
        raise ContractError("ConsumeRequest", missing)
