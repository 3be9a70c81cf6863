from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.clock import ManualClock, SystemClock, duration, nanoseconds, timestamp, utc_text

LAST_NS = 253_402_300_799_999_999_999


@given(st.integers(0, LAST_NS))
def test_a_timestamp_keeps_every_nanosecond(ns: int) -> None:
    assert nanoseconds(timestamp(ns)) == ns
    assert 0 <= timestamp(ns).nanos < 1_000_000_000


@given(st.integers(-(10**15), 10**15))
def test_a_duration_keeps_its_microseconds_and_its_sign_on_both_parts(microseconds: int) -> None:
    span = duration(microseconds / 1e6)
    assert abs(nanoseconds(span) - microseconds * 1000) <= abs(microseconds * 1000) * 2**-50
    assert span.seconds * span.nanos >= 0


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(now_ns=5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (5, 0)
    clock.advance(1.5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1_500_000_005, 1_500_000_000)


def test_setting_a_manual_clock_steps_the_wall_clock_alone() -> None:
    clock = ManualClock(now_ns=5, monotonic_ns=7)
    clock.set(1)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1, 7)


def test_time_cannot_pass_backwards() -> None:
    with pytest.raises(ValueError, match="forwards"):
        ManualClock().advance(-1)


def test_the_system_clock_never_steps_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic_ns() for _ in range(100)]
    assert readings == sorted(readings)


def test_a_moment_is_written_in_utc_to_the_second() -> None:
    assert utc_text(1_760_000_000_999_999_999) == "2025-10-09T08:53:20+00:00"
