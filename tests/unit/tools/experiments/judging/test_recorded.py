"""The recorded grafts: whole, told apart by their end, and turned into what a judge takes."""

from __future__ import annotations

import math

import pytest

from tests.unit.tools.experiments.loading import JUDGING, load

recorded = load("recorded", JUDGING)
SERIES = recorded.load()


def test_there_are_37_grafts_and_each_says_what_became_of_it() -> None:
    assert [series.number for series in SERIES] == list(range(1, 38))
    assert {series.paid for series in SERIES} == {"yes", "no", "hardly", "open"}
    assert all(series.source and series.grafted for series in SERIES)


def test_each_record_covers_its_window_in_even_steps() -> None:
    for series in SERIES:
        steps = [evaluation.step - series.at for evaluation in series.evaluations]
        assert steps == list(range(20, series.window_steps + 1, 20))


def test_the_variance_is_the_one_that_gives_the_recorded_z() -> None:
    first = SERIES[0].evaluations[0]
    assert first.gain / math.sqrt(first.variance / first.samples) == pytest.approx(-34.38, abs=0.01)


def test_a_z_near_zero_tells_no_variance_and_takes_the_typical_one() -> None:
    rows = [[20, 0.99, 1.0, 10.0], [40, 0.97, 1.0, 10.0], [60, 1.0, 1.0, 0.04], [80, 0.98, 1.0, 10.0]]
    found = recorded.evaluations(500, rows)
    assert found[2].variance == pytest.approx(0.002**2 * 512)


def test_doubling_the_blocks_costs_about_twice_a_step() -> None:
    doubled = [series.costs.ratio for series in SERIES if series.grafted == "stack 3 -> 6"]
    assert doubled == pytest.approx([2.0] * len(doubled), abs=0.05)
