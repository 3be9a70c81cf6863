"""The protocol of the bus, and the settings that every implementation has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from esper.core.errors import BackPressure, ConfigError
from esper.core.settings.config import require_positive
from esper.leyline import BusEnvelope, BusLane, MessagePriority

LANES = (
    BusLane.BUS_LANE_EMERGENCY,
    BusLane.BUS_LANE_KERNEL_REQUESTS,
    BusLane.BUS_LANE_KERNEL_ANSWERS,
    BusLane.BUS_LANE_NORMAL,
    BusLane.BUS_LANE_POLICY,
    BusLane.BUS_LANE_TELEMETRY,
)
# Within a lane the more urgent goes first.
PRIORITIES = (
    MessagePriority.MESSAGE_PRIORITY_CRITICAL,
    MessagePriority.MESSAGE_PRIORITY_HIGH,
    MessagePriority.MESSAGE_PRIORITY_NORMAL,
    MessagePriority.MESSAGE_PRIORITY_LOW,
)
LEAST = PRIORITIES[-1]
RETRY_AFTER_S = 1.0
MIB = 1024 * 1024
# Two requests fit into the half of a lane that isn't kept for what was handled.
MIN_LANE_BYTES = 16 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class BusConfig:
    """Bounds of a bus."""

    max_deliveries: int = 5  # tries before an envelope is put aside
    lease_s: float = 60.0  # an envelope not acknowledged for this long is delivered again
    retry_s: float = 1.0  # wait after a rejection; doubles with each try, up to a lease
    retention_s: float = 86_400.0  # how long an envelope is kept that was handled
    max_kept_entries: int = 50_000  # of a lane's handled envelopes no more are kept, however young: LOW ones go first
    dead_retention_s: float = 604_800.0  # how long a dead letter is kept
    max_dead_letters: int = 10_000  # no more of them are kept, however young
    group_retention_s: float = 2_592_000.0  # a group that asked for nothing this long is forgotten, with what it missed
    full_lane_patience_s: float = 86_400.0  # the same, where a lane is full
    max_lane_entries: int = 200_000  # a fuller lane refuses more, CRITICAL ones excepted
    max_lane_bytes: int = 1024 * MIB  # the same in bytes; handled envelopes have half of it, dead letters as much

    def __post_init__(self) -> None:
        require_positive(self, "max_deliveries", "lease_s", "retry_s", "retention_s", "dead_retention_s")
        require_positive(self, "group_retention_s", "full_lane_patience_s")
        require_positive(self, "max_kept_entries", "max_dead_letters", "max_lane_entries")
        if self.max_lane_bytes < MIN_LANE_BYTES:
            remedy = f"give at least {MIN_LANE_BYTES} ({MIN_LANE_BYTES // MIB} MiB)"
            raise ConfigError("max_lane_bytes", self.max_lane_bytes, remedy)

    @property
    def max_kept_bytes(self) -> int:
        """Of a lane's handled envelopes no more bytes are kept, so that what comes has the other half."""
        return self.max_lane_bytes // 2

    def patience_s(self, *, is_full: bool) -> float:
        """How long a group may ask for nothing."""
        return min(self.full_lane_patience_s, self.group_retention_s) if is_full else self.group_retention_s


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an envelope stands, and whether this publication put it there."""

    sequence: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An envelope, the group that could not handle it, and when it was put aside (Unix nanoseconds)."""

    group: str
    stored_ns: int
    envelope: BusEnvelope


def is_exempt(envelope: BusEnvelope) -> bool:
    """Whether an envelope is taken however full its lane is."""
    return envelope.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL


def require_room(
    config: BusConfig, lane: BusLane, *, entries: int, further: int, size_bytes: int, further_bytes: int
) -> None:
    """Raise BackPressure where a lane that holds so much can't take what is to come."""
    name, most, most_bytes = BusLane.Name(lane), config.max_lane_entries, config.max_lane_bytes
    if entries + further > most:
        raise BackPressure(f"{name} holds {most} envelopes, as many as it takes", RETRY_AFTER_S)
    if size_bytes + further_bytes > most_bytes:
        held, bound, more = (f"{size / MIB:.3g}" for size in (size_bytes, most_bytes, further_bytes))
        raise BackPressure(f"{name} holds {held} of {bound} MiB, and {more} MiB more don't fit", RETRY_AFTER_S)


class Bus(Protocol):
    """A durable log with consumer groups."""

    vouches: bool
    """Whether only checked envelopes can be in it: a file of our own vouches for them, a shared server doesn't."""

    async def publish(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        """Store envelopes that were checked, all or none; returns once they are durable.

        A known id has its first position. Raises BackPressure where a lane is full.
        """

    async def fetch(self, group: str, consumer: str, lanes: Sequence[BusLane], limit: int) -> list[BusEnvelope]:
        """Up to `limit` envelopes for a consumer: lane by lane, urgent ones first, of equal ones those due again first.

        A new group starts at the oldest envelope that is kept.
        """

    async def acknowledge(self, group: str, event_ids: Sequence[str]) -> None:
        """These were handled."""

    async def reject(self, group: str, event_ids: Sequence[str]) -> None:
        """These could not be handled: deliver them again, or put them aside after too many tries."""

    async def release(self, group: str, consumer: str) -> None:
        """The consumer is gone: what it held is delivered to another at once."""

    async def read(
        self, lanes: Sequence[BusLane], after_sequence: int, limit: int, min_priority: MessagePriority = LEAST
    ) -> list[BusEnvelope]:
        """Envelopes after a position, in the order of their storage; no group is involved."""

    async def wait(
        self, after_sequence: int, timeout_s: float, lanes: Sequence[BusLane] = LANES, group: str | None = None
    ) -> None:
        """Return when there is something in these lanes after a position, or after a while.

        For a group also when something that it was given may be due again.
        """

    async def last_sequence(self) -> int:
        """Position of the newest envelope."""

    async def depth(self, lane: BusLane) -> int:
        """Envelopes of a lane that its slowest group has not handled yet."""

    async def dead_letter_count(self) -> int:
        """How many envelopes were put aside and are still kept."""

    def dead_letters(self, group: str | None = None) -> AsyncIterator[DeadLetter]:
        """What was put aside and is still kept, oldest first; of one group, or of all."""

    async def requeue(self, group: str, event_ids: Sequence[str]) -> list[str]:
        """Deliver dead letters to their group again, with all its tries; gives the ids that were dead letters."""

    async def drop(self, group: str, event_ids: Sequence[str]) -> list[str]:
        """Forget dead letters; gives the ids that were some."""

    async def trim(self) -> int:
        """Forget what is old or too much, of envelopes that every group has handled; returns how many."""

    async def forget_groups(self, *, is_full: bool = False) -> dict[str, int]:
        """Forget groups that have asked for nothing for too long, which is shorter where a lane is full.

        Gives how many envelopes each had not handled. A group that comes back begins anew, at the oldest that is kept.
        """

    async def close(self) -> None:
        """Let go of the storage."""
