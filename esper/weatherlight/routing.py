"""The way of telemetry: judged, stored on the bus in the lane of its priority, counted, handed to subscribers.

A batch is durable before it is answered, so a sender may forget it then. CRITICAL packets go first and are taken even
when the ordinary lane is full.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from esper.core.clock import Clock
from esper.core.errors import BackPressure
from esper.core.messages.validation import MAX_INTEGER, violations
from esper.core.priority import lane_of
from esper.core.security.keys import Keyring
from esper.core.telemetry import build_packet, event
from esper.core.tracing import context_of, current_trace, tracer
from esper.leyline import BusEnvelope, BusLane, MessagePriority, SubscribeRequest, TelemetryPacket
from esper.oona.bus import Bus, Stored
from esper.oona.envelope import seal, span_attributes
from esper.oona.metrics import GROUP_FORGOTTEN
from esper.oona.precedence import Precedence

CRITICAL = MessagePriority.MESSAGE_PRIORITY_CRITICAL
TELEMETRY_LANES = (BusLane.BUS_LANE_EMERGENCY, BusLane.BUS_LANE_TELEMETRY)
PAGE = 256
WAIT_S = 5.0
_tracer = tracer("esper.oona")


@dataclass(slots=True)
class Counts:
    """What went through since the start."""

    packets: int = 0
    critical: int = 0
    refused: int = 0
    duplicates: int = 0
    dropped_by_senders: int = 0
    published: int = 0
    turned_away: int = 0
    publish_latency_ms: float = 0.0
    lost: Counter[str] = field(default_factory=Counter)
    """What forgotten groups of the bus had not handled, by group."""

    def add_dropped(self, count: int) -> None:
        """The senders' counts stop at what their field holds."""
        self.dropped_by_senders = min(MAX_INTEGER, self.dropped_by_senders + count)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one batch."""

    accepted: int
    refused: int
    duplicates: int


class Router:
    """Takes packets and envelopes onto the bus."""

    def __init__(
        self,
        bus: Bus,
        keyring: Keyring,
        clock: Clock,
        precedence: Precedence | None = None,
        tell: Callable[[TelemetryPacket], None] = lambda packet: None,
    ) -> None:
        self.counts = Counts()
        self.precedence = precedence or Precedence()
        self._tell = tell
        self._bus = bus
        self._keyring = keyring
        self._clock = clock
        self._trimming = asyncio.Lock()

    async def take(self, packets: Sequence[TelemetryPacket]) -> Taken:
        """Store a batch of packets; raises BackPressure if the ordinary lane is full, with CRITICAL ones stored."""
        valid: list[TelemetryPacket] = []
        async for some in self.precedence.slices(packets):
            valid += (packet for packet in some if not violations(packet))
        urgent = [packet for packet in valid if packet.priority == CRITICAL]
        ordinary = [packet for packet in valid if packet.priority != CRITICAL]
        self.counts.refused += len(packets) - len(valid)
        accepted = await self._store(urgent) + await self._store(ordinary)
        return Taken(accepted, len(packets) - len(valid), len(valid) - accepted)

    async def publish(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        """Store checked envelopes and count them."""
        began = time.perf_counter()
        try:
            stored = await self._fitted(envelopes)
        except BackPressure:
            self.counts.turned_away += len(envelopes)
            raise
        self.counts.published += sum(each.is_new for each in stored)
        self.counts.publish_latency_ms = (time.perf_counter() - began) * 1e3
        return stored

    async def subscribe(self, request: SubscribeRequest) -> AsyncIterator[tuple[TelemetryPacket, int]]:
        """Packets from a position of the log on, as they arrive, for ever."""
        after = request.after_sequence if request.HasField("after_sequence") else await self._bus.last_sequence()
        while True:
            seen = await self._bus.last_sequence()
            envelopes = await self._bus.read(TELEMETRY_LANES, after, PAGE, request.min_priority)
            for envelope in envelopes:
                after = envelope.sequence
                if not request.sources or envelope.source in request.sources:
                    yield TelemetryPacket.FromString(envelope.payload), envelope.sequence
            if len(envelopes) < PAGE:
                after = max(after, seen)
            if not envelopes:
                await self._bus.wait(seen, WAIT_S, TELEMETRY_LANES)

    async def tidy(self) -> int:
        """Forget groups that nobody reads for, and what is old or too much; returns how many envelopes."""
        async with self._trimming:
            return await self._tidied(is_full=False)

    async def _fitted(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        """Store them; a lane that is full of what was handled, or is held for nobody, is trimmed first."""
        try:
            return await self._bus.publish(envelopes)
        except BackPressure:
            async with self._trimming:
                if not await self._bus.trim() and not await self._tidied(is_full=True):
                    raise
        return await self._bus.publish(envelopes)

    async def _tidied(self, *, is_full: bool) -> int:
        for group, lost in (await self._bus.forget_groups(is_full=is_full)).items():
            self.counts.lost[group] += lost
            said = (
                f"group {group!r} asked for nothing for too long: {lost} envelopes that it had not handled are let go"
            )
            told = event(GROUP_FORGOTTEN, self._clock, said, group=group, lost=lost)
            self._tell(build_packet("oona", self._clock, events=[told]))
        return await self._bus.trim()

    async def _store(self, packets: Sequence[TelemetryPacket]) -> int:
        """How many of the packets were new."""
        if not packets:
            return 0
        envelopes: list[BusEnvelope] = []
        async for some in self.precedence.slices(packets):
            envelopes += map(self._sealed, some)
        stored = await self.publish(envelopes)
        new = [packet for packet, each in zip(packets, stored, strict=True) if each.is_new]
        self.counts.packets += len(new)
        self.counts.critical += sum(packet.priority == CRITICAL for packet in new)
        self.counts.duplicates += len(packets) - len(new)
        return len(new)

    def _sealed(self, packet: TelemetryPacket) -> BusEnvelope:
        """The packet's envelope; the packet's own id makes a repeated one known."""
        if not packet.HasField("trace"):
            return self._seal(packet)
        attributes = span_attributes("publish", packet)
        with _tracer.start_as_current_span("oona.publish", context_of(packet.trace), attributes=attributes):
            return self._seal(packet)

    def _seal(self, packet: TelemetryPacket) -> BusEnvelope:
        return seal(
            self._keyring,
            self._clock,
            packet,
            source=packet.source,
            lane=lane_of(packet.priority),
            priority=packet.priority,
            event_id=packet.packet_id,
            trace=current_trace() if packet.HasField("trace") else None,
        )
