"""Whose caution holds the plane, and for how long."""

from __future__ import annotations

import pytest

from esper.core.clock import ManualClock
from esper.leyline import RiskReason
from esper.tamiyo.hearing import GONE_S, SILENT_S, Hearing
from esper.tamiyo.runs import Run
from esper.tamiyo.server import TamiyoService
from esper.tamiyo.service.parts import Parts
from tests.unit.tamiyo.builders import RUN, spec
from tests.unit.tamiyo.conftest import Home


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_run_that_nobody_heard_since_the_start_counts_not(clock: ManualClock) -> None:
    assert not Hearing(clock).counts


def test_a_run_whose_line_stands_counts_for_as_long_as_a_slow_one_may_be_silent(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    hearing.heard(object())
    clock.advance(SILENT_S)
    assert hearing.counts
    assert hearing.in_words == ""
    clock.advance(1)
    assert not hearing.counts


def test_a_run_whose_line_ended_counts_for_as_long_as_it_may_be_back(clock: ManualClock) -> None:
    hearing, line = Hearing(clock), object()
    hearing.heard(line)
    clock.advance(5)
    hearing.ended(line)
    told = hearing.in_words
    assert told == "its trainer has left without closing it; counts until 2025-10-09T08:54:25+00:00"
    clock.advance(GONE_S)
    assert hearing.counts
    assert hearing.in_words == told
    clock.advance(1)
    assert not hearing.counts


def test_a_run_that_asks_again_is_back(clock: ManualClock) -> None:
    hearing, first = Hearing(clock), object()
    hearing.heard(first)
    hearing.ended(first)
    hearing.heard(object())
    hearing.ended(first)  # late news of a stream that was replaced
    clock.advance(GONE_S + 1)
    assert hearing.counts


async def cautious(home: Home, parts: Parts, run_id: str) -> Run:
    asked = spec(training_run_id=run_id)
    run, _ = await parts.runs.open(asked, home.signer.sign(asked, audience=f"tamiyo/{run_id}").security)
    run.state.conservative, run.state.conservative_reason = True, RiskReason.RISK_REASON_LOSS_SPIKE
    return run


async def test_tamiyo_says_about_which_run_she_is_careful_why_and_until_when(home: Home, parts: Parts) -> None:
    servicer, line = TamiyoService(parts), object()
    run = await cautious(home, parts, RUN)
    assert servicer.caution() is None
    run.hearing.heard(line)
    assert servicer.caution() == (f"conservative about {RUN} (loss_spike)", RUN)
    other = await cautious(home, parts, "another")
    other.hearing.heard(object())
    parts.runs.line_ended(line)
    said, only = servicer.caution() or ("", "")
    assert said.startswith(f"conservative about another (loss_spike), {RUN} (loss_spike; its trainer has left without")
    assert only is None
    home.clock.advance(GONE_S + 1)
    assert servicer.caution() == ("conservative about another (loss_spike)", "another")
