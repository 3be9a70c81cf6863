"""Statistics of paired runs: what a median of ratios says, and what noise may not change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tools.benches import TIMING, load

paired = load("paired", TIMING)
positive = st.floats(min_value=1e-3, max_value=1e3)


def test_a_slowdown_of_the_whole_round_leaves_the_ratio_as_it_is() -> None:
    rounds = [{"bare": 2.0 * load, "control": 2.1 * load} for load in (1.0, 3.0, 0.5)]
    assert paired.ratios(rounds, "control", "bare") == pytest.approx([1.05] * 3)


def test_one_disturbed_round_moves_the_range_and_not_the_median() -> None:
    found = paired.spread([1.02, 1.03, 9.0, 1.01, 1.02])
    assert (found.median, found.low, found.high, found.count) == (1.02, 1.01, 9.0, 5)


@given(st.lists(positive, min_size=1, max_size=30))
def test_the_median_lies_in_its_interval_and_the_interval_in_the_range(values: list[float]) -> None:
    found = paired.spread(values)
    assert found.low <= found.median <= found.high
    if found.interval is not None:
        assert found.low <= found.interval[0] <= found.median <= found.interval[1] <= found.high


@pytest.mark.parametrize(
    ("count", "outside"),
    [(4, None), (5, 0), (7, 0), (8, 1), (10, 1), (11, 2)],
)
def test_the_interval_leaves_out_as_many_values_as_the_sign_test_allows(count: int, outside: int | None) -> None:
    values = [float(value) for value in range(count)]
    expected = None if outside is None else (float(outside), float(count - 1 - outside))
    assert paired.sign_interval(values) == expected


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_and_what_is_no_number_has_no_spread(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        paired.spread(values)


def test_every_arm_comes_first_and_last_equally_often() -> None:
    arms = ("bare", "never", "control")
    orders = [paired.order(arms, index) for index in range(6)]
    assert all(sorted(found) == sorted(arms) for found in orders)
    assert sorted(found[0] for found in orders) == sorted(arms * 2)
    assert sorted(found[-1] for found in orders) == sorted(arms * 2)
