"""The judge of stacks on simulated grafts: how often it is wrong, and how often it sees what is there."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina.control.judge.stack_plan import StackSettings, window_error
from tests.unit.tools.experiments.loading import JUDGING, load

null = load("stack_judge_null", JUDGING)
ASSUMED = StackSettings()
REPEATS = 600
MAY_SPEND = window_error(1, ASSUMED) + window_error(2, ASSUMED)
# Four standard deviations of a count above what may be kept.
MOST_KEPT = MAY_SPEND + 4 * math.sqrt(MAY_SPEND / REPEATS)


@settings(max_examples=10, derandomize=True)
@given(
    gain=st.floats(-0.05, ASSUMED.margin),
    wander_share=st.floats(0.0, ASSUMED.wander_share),
    memory_steps=st.floats(0.0, ASSUMED.memory_steps),
    heavy_tails=st.booleans(),
    jump=st.sampled_from([0.0, 0.1, 1.3]),
    seed=st.integers(0, 2**32),
)
def test_what_has_no_gain_beyond_the_margin_is_kept_no_more_often_than_promised(
    gain: float, wander_share: float, memory_steps: float, heavy_tails: bool, jump: float, seed: int
) -> None:
    truth = null.Truth(
        gain=gain, wander_share=wander_share, memory_steps=memory_steps, heavy_tails=heavy_tails, jump=jump
    )
    assert null.rates(truth, REPEATS, seed)["kept"] <= MOST_KEPT


def test_the_crude_rule_would_break_that_promise() -> None:
    assert null.rates(null.Truth(), 1000, 1)["crude"] > 2 * MAY_SPEND


@settings(max_examples=6, derandomize=True)
@given(wander_share=st.floats(0.05, ASSUMED.wander_share), seed=st.integers(0, 2**32))
def test_a_gain_of_a_hundredth_of_a_nat_beyond_the_margin_is_nearly_always_kept(wander_share: float, seed: int) -> None:
    truth = null.Truth(gain=ASSUMED.margin + 0.01, wander_share=wander_share)
    assert null.rates(truth, 100, seed)["kept"] >= 0.95


def test_a_larger_gain_is_kept_more_often_and_earlier() -> None:
    small, large = (null.rates(null.Truth(gain=gain), 300, 3) for gain in (0.006, 0.015))
    assert small["kept"] < large["kept"]
    assert small["early"] < large["early"]


@pytest.mark.parametrize("heavy_tails", [False, True])
def test_deviates_have_unit_variance(heavy_tails: bool) -> None:
    rng = random.Random(1)
    drawn = [null.draw(null.Truth(heavy_tails=heavy_tails), rng) for _ in range(40_000)]
    assert sum(value * value for value in drawn) / len(drawn) == pytest.approx(1.0, abs=0.15)
