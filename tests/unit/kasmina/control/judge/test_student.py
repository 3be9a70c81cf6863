"""Student's t: published points, both tails' promise, and what is no distribution."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.control.judge.student import student_quantile, student_tail


@pytest.mark.parametrize(
    ("freedom", "point"), [(1, 31.821), (2, 6.965), (3, 4.541), (4, 3.747), (7, 2.998), (14, 2.624), (30, 2.457)]
)
def test_the_one_percent_points_are_the_published_ones(freedom: int, point: float) -> None:
    assert student_quantile(0.01, freedom) == pytest.approx(point, abs=0.0006)


def test_one_degree_of_freedom_is_cauchys_distribution() -> None:
    for t in (0.0, 0.3, 1.0, 20.0):
        assert student_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert student_quantile(0.01, 2001) == pytest.approx(NormalDist().inv_cdf(0.99), abs=3e-3)


@given(st.floats(1e-6, 0.5), st.integers(1, 60))
def test_the_quantile_is_exceeded_as_often_as_asked(error: float, freedom: int) -> None:
    assert student_tail(student_quantile(error, freedom), freedom) == pytest.approx(error, rel=1e-6)


@given(st.floats(0.0, 50.0), st.integers(1, 59))
def test_more_freedom_never_has_the_heavier_tail(t: float, freedom: int) -> None:
    assert student_tail(t, freedom + 1) <= student_tail(t, freedom) + 1e-12


@pytest.mark.parametrize("error", [0.0, -0.1, 0.51, math.nan])
def test_a_probability_that_is_none_is_refused(error: float) -> None:
    with pytest.raises(ValueError, match="expected an error above 0"):
        student_quantile(error, 3)


@pytest.mark.parametrize(("t", "freedom"), [(-1.0, 3), (math.nan, 3), (1.0, 0)])
def test_a_tail_that_does_not_exist_is_refused(t: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="expected t >= 0"):
        student_tail(t, freedom)
