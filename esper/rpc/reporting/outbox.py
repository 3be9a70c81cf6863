"""Telemetry that waits to be sent: bounded, most urgent first, and never without its CRITICAL packets."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass

from esper.leyline import MessagePriority, TelemetryPacket

log = logging.getLogger("esper.telemetry")
CRITICAL = MessagePriority.MESSAGE_PRIORITY_CRITICAL
# Order of sending; dropping starts at the other end and stops before the first.
URGENCY = (
    CRITICAL,
    MessagePriority.MESSAGE_PRIORITY_HIGH,
    MessagePriority.MESSAGE_PRIORITY_NORMAL,
    MessagePriority.MESSAGE_PRIORITY_LOW,
)

# A server takes 4 MiB at once.
MAX_BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Packets to send together, and how many were dropped since the last batch that arrived."""

    packets: tuple[TelemetryPacket, ...]
    dropped: int


class Outbox:
    """A queue for any number of threads. CRITICAL packets don't count against its capacity."""

    def __init__(self, capacity: int, max_batch: int, max_batch_bytes: int = MAX_BATCH_BYTES) -> None:
        self._capacity = capacity
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._lock = threading.Lock()
        self._lanes: dict[int, deque[TelemetryPacket]] = {priority: deque() for priority in URGENCY}
        self._unreported = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Packets dropped since the start."""
        return self._dropped

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def put(self, packet: TelemetryPacket) -> None:
        """Take a packet; when full, the oldest of the least urgent kind goes. One that fits in no batch is dropped."""
        if packet.priority not in self._lanes:
            raise ValueError(f"packet {packet.packet_id!r} has priority {packet.priority}; use build_packet")
        if (size_bytes := packet.ByteSize()) > self._max_batch_bytes:
            log.error("packet %r has %d bytes, at most %d fit", packet.packet_id, size_bytes, self._max_batch_bytes)
            with self._lock:
                self._dropped += 1
                self._unreported += 1
            return
        with self._lock:
            self._lanes[packet.priority].append(packet)
            self._make_room()

    def take(self) -> Batch | None:
        """The most urgent packets, oldest first within each kind; None if there is nothing to say."""
        with self._lock:
            packets: list[TelemetryPacket] = []
            room_bytes = self._max_batch_bytes
            for lane in self._lanes.values():
                while lane and len(packets) < self._max_batch and lane[0].ByteSize() <= room_bytes:
                    packets.append(lane.popleft())
                    room_bytes -= packets[-1].ByteSize()
            if not packets and not self._unreported:
                return None
            batch = Batch(tuple(packets), self._unreported)
            self._unreported = 0
            return batch

    def restore(self, batch: Batch) -> None:
        """Put back what didn't arrive, in front of what came later."""
        with self._lock:
            self._unreported += batch.dropped
            for packet in reversed(batch.packets):
                self._lanes[packet.priority].appendleft(packet)
            self._make_room()

    def _make_room(self) -> None:
        ordinary = len(self) - len(self._lanes[CRITICAL])
        for priority in reversed(URGENCY[1:]):
            while ordinary > self._capacity and self._lanes[priority]:
                self._lanes[priority].popleft()
                ordinary -= 1
                self._dropped += 1
                self._unreported += 1
