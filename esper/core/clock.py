"""The one source of time, and conversions between nanoseconds and protobuf's Timestamp and Duration.

Components are given a Clock and never ask the system themselves, so that tests own the time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

NS_PER_S = 1_000_000_000

# Suspended time counts on the boot clock only: without it a laptop that slept looks like a clock that jumped.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Wall time for stamps, steady time for durations."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds; may step in either direction."""

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never steps back."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.clock_gettime_ns(_STEADY_CLOCK)


class UnsteppedClock:
    """Another clock's wall time when it was made, and as much later as has passed since: no step of it is followed.

    For what is due after a while: a clock that is put back an hour would hold it back for as long.
    """

    __slots__ = ("_ahead_ns", "_clock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ns = clock.now_ns() - clock.monotonic_ns()

    def now_ns(self) -> int:
        return self._clock.monotonic_ns() + self._ahead_ns

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns()


class ManualClock:
    """A clock that stands still until it is moved: for tests and replays."""

    __slots__ = ("_monotonic_ns", "_now_ns")

    def __init__(self, now_ns: int = 1_760_000_000 * NS_PER_S, monotonic_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let time pass: both clocks move."""
        elapsed_ns = round(seconds * NS_PER_S)
        if elapsed_ns < 0:
            raise ValueError(f"time passes forwards, got {seconds} s; use set() for a clock step")
        self._now_ns += elapsed_ns
        self._monotonic_ns += elapsed_ns

    def set(self, now_ns: int) -> None:
        """Step the wall clock; no time passes."""
        self._now_ns = now_ns


SYSTEM_CLOCK = SystemClock()


def timestamp(ns: int) -> Timestamp:
    """Unix nanoseconds as a Timestamp."""
    return Timestamp(seconds=ns // NS_PER_S, nanos=ns % NS_PER_S)


def utc_text(ns: int) -> str:
    """Unix nanoseconds as people and logs read them, e.g. 2026-01-31T12:00:00+00:00."""
    return datetime.fromtimestamp(ns // NS_PER_S, UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> Duration:
    """Seconds as a Duration, rounded to the nanosecond; both parts carry the sign, as protobuf wants it."""
    total_ns = round(seconds * NS_PER_S)
    sign = -1 if total_ns < 0 else 1
    return Duration(seconds=sign * (abs(total_ns) // NS_PER_S), nanos=sign * (abs(total_ns) % NS_PER_S))


def nanoseconds(moment: Timestamp | Duration) -> int:
    """Nanoseconds since the epoch, or of the span."""
    return moment.seconds * NS_PER_S + moment.nanos
