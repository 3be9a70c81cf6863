"""A breaker opens on deadlines missed in a row, tries after a while, and closes with an answer."""

from __future__ import annotations

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import AsyncTimeoutError, ServiceUnavailable
from esper.tolaria.plane.calls.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerConfig


class Guarded:
    """A breaker and what it told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.told: list[str] = []
        config = BreakerConfig(misses_to_open=3, open_s=30.0)
        self.breaker = Breaker("tamiyo", config, self.clock, lambda state, why: self.told.append(why))

    def call(self, error: Exception | None = None) -> None:
        with self.breaker.guarding():
            if error is not None:
                raise error

    def miss(self) -> None:
        with pytest.raises(AsyncTimeoutError):
            self.call(AsyncTimeoutError("call", 1.0))


LOST = ServiceUnavailable("rpc", "service", "tamiyo", "connection lost")


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


def opened(guarded: Guarded) -> Guarded:
    for _ in range(3):
        guarded.miss()
    return guarded


def test_only_deadlines_missed_in_a_row_open_it(guarded: Guarded) -> None:
    for _ in range(3):
        guarded.miss()
        guarded.miss()
        guarded.call()
    for _ in range(5):
        with pytest.raises(ServiceUnavailable, match="connection lost"):
            guarded.call(LOST)
    assert (guarded.breaker.state, guarded.told) == (CLOSED, [])
    opened(guarded)
    assert guarded.breaker.state == OPEN
    assert guarded.told == ["tamiyo missed 3 deadlines in a row; asked again in 30 s"]


def test_open_it_lets_no_call_pass_until_its_time(guarded: Guarded) -> None:
    opened(guarded)
    guarded.clock.advance(29.5)
    with pytest.raises(ServiceUnavailable, match=r"missed 3 deadlines in a row and is asked again in 500 ms"):
        guarded.call()
    guarded.clock.advance(0.5)
    guarded.call()
    assert guarded.breaker.state == CLOSED
    assert guarded.told[1:] == ["tamiyo answers again"]
    guarded.miss()
    assert guarded.breaker.state == CLOSED  # the count began anew


def test_a_trial_that_misses_its_deadline_opens_it_at_once(guarded: Guarded) -> None:
    opened(guarded)
    guarded.clock.advance(30.0)
    guarded.miss()
    assert guarded.breaker.state == OPEN
    with pytest.raises(ServiceUnavailable, match="missed 4 deadlines"):
        guarded.call()


def test_a_trial_that_fails_for_another_reason_leaves_the_next_call_to_try(guarded: Guarded) -> None:
    opened(guarded)
    guarded.clock.advance(30.0)
    with pytest.raises(ServiceUnavailable, match="connection lost"):
        guarded.call(LOST)
    assert guarded.breaker.state == OPEN
    with guarded.breaker.guarding():
        assert guarded.breaker.state == HALF_OPEN
    assert guarded.breaker.state == CLOSED


def test_a_deadline_that_another_thread_missed_counts_too(guarded: Guarded) -> None:
    assert [guarded.breaker.missed() for _ in range(4)] == [False, False, True, False]
