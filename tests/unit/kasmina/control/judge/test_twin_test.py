"""The sequential twin test: thresholds, margin, noise, and what it refuses to judge."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.control.judge.twin_test import ERROR_RATE, LOOK_THRESHOLDS, look_threshold, take_look, z_score
from esper.leyline import JudgeResult
from tests.unit.kasmina.control.making import judgement, life, score


@pytest.mark.parametrize(("look", "threshold"), [(1, 2.33), (2, 2.71), (3, 2.94), (4, 3.09), (5, 3.21), (6, 3.30)])
def test_the_threshold_of_each_look_is_the_published_one(look: int, threshold: float) -> None:
    assert look_threshold(look) == threshold


def test_the_table_is_the_rounded_quantile_and_goes_on_beyond_its_end() -> None:
    for look, threshold in enumerate(LOOK_THRESHOLDS, start=1):
        assert threshold == pytest.approx(NormalDist().inv_cdf(1 - 0.02 / (look * (look + 1))), abs=0.006)
    assert look_threshold(7) > look_threshold(6)


def test_the_error_rates_of_all_looks_together_stay_within_the_promise() -> None:
    spent = sum(1 - NormalDist().cdf(look_threshold(look)) for look in range(1, 1000))
    assert spent <= ERROR_RATE * 1.01


def test_the_margin_is_the_larger_of_the_absolute_and_the_relative_one() -> None:
    assert take_look(judgement(0.1, mean_twin=0.2), life(), 1).test.margin == pytest.approx(0.006)
    assert take_look(judgement(0.1, mean_twin=0.05), life(), 1).test.margin == 0.002


def test_uncalibrated_noise_is_a_share_of_the_twins_score_and_calibrated_noise_is_taken_as_given() -> None:
    assert take_look(judgement(0.1, mean_twin=0.2), life(), 1).test.tau == pytest.approx(0.004)
    assert take_look(judgement(0.1), life(tau=0.0), 1).test.tau == 0.0


def test_z_is_the_gain_beyond_the_margin_in_units_of_its_error() -> None:
    look = take_look(judgement(0.03, mean_twin=0.2, variance=0.01, samples=400), life(), 1)
    error = math.sqrt(0.01 / 400 + 0.004**2)
    assert look.test.z == pytest.approx((0.03 - 0.006) / error)
    assert look.is_better


def test_a_gain_at_the_threshold_is_enough() -> None:
    settings = life(tau=0.0, margin_relative=0.0, margin_absolute=0.0)
    z_233 = judgement(2.33 * 0.005, variance=0.01, samples=400)
    assert take_look(z_233, settings, 1).is_better
    below = judgement(2.32 * 0.005, variance=0.01, samples=400)
    assert not take_look(below, settings, 1).is_better


def test_what_passes_the_first_look_need_not_pass_the_second() -> None:
    settings = life(tau=0.0, margin_relative=0.0, margin_absolute=0.0)
    gain = 2.5 * 0.005
    assert take_look(judgement(gain, 1, variance=0.01, samples=400), settings, 1).is_better
    assert not take_look(judgement(gain, 2, variance=0.01, samples=400), settings, 2).is_better


def test_a_gain_that_can_hardly_reach_the_margin_is_hopeless() -> None:
    settings = life(tau=0.0, margin_relative=0.0, margin_absolute=0.01)
    assert take_look(judgement(0.0, variance=0.01, samples=400), settings, 1).is_hopeless
    assert not take_look(judgement(0.0019, variance=0.01, samples=400), settings, 1).is_hopeless


@pytest.mark.parametrize(
    ("evidence", "problem"),
    [
        (judgement(math.nan), "finite"),
        (judgement(math.inf), "finite"),
        (judgement(0.1, variance=math.nan), "finite"),
        (judgement(0.1, mean_twin=math.nan), "finite"),
        (judgement(0.1, variance=0.0), "variance"),
        (judgement(0.1, samples=299), "at least 300"),
        (judgement(0.1, look=2), "look 1 was asked for"),
        (JudgeResult(look=1, muted=score(0.1)), "no twin scores"),
    ],
)
def test_evidence_that_cannot_be_used_is_no_reason_to_keep_a_seed(evidence: JudgeResult, problem: str) -> None:
    look = take_look(evidence, life(), 1)
    assert problem in (look.invalid or "")
    assert look.is_hopeless
    assert not look.is_better


@given(
    st.floats(allow_nan=True),
    st.floats(allow_nan=True),
    st.integers(0, 10_000),
    st.floats(allow_nan=True),
    st.integers(1, 50),
)
def test_no_evidence_is_both_better_and_hopeless(
    gain: float, variance: float, samples: int, mean_twin: float, look: int
) -> None:
    settings = life(margin_absolute=0.002, margin_relative=0.0)
    taken = take_look(judgement(gain, look, mean_twin=mean_twin, variance=variance, samples=samples), settings, look)
    assert not (taken.is_better and taken.is_hopeless)


def test_a_difference_without_variance_has_no_z_unless_it_is_zero() -> None:
    assert z_score(score(0.0, variance=0.0)) == 0.0
    assert math.isnan(z_score(score(0.1, variance=0.0)))
    assert math.isnan(z_score(score(0.1, samples=0)))


def test_samples_of_documents_are_as_uncertain_as_their_documents() -> None:
    settings = life(tau=0.0, margin_relative=0.0, margin_absolute=0.0)
    seen = judgement(0.03)
    seen.twin.documents, seen.twin.standard_error = 40, 0.02
    look = take_look(seen, settings, 1)
    assert look.test.z == pytest.approx(0.03 / 0.02)
    assert look.standard_error == pytest.approx(0.02)
    assert math.sqrt(look.test.variance / look.test.samples) == pytest.approx(0.02)
    assert take_look(judgement(0.03), settings, 1).is_better
    assert not look.is_better


@pytest.mark.parametrize("error", [math.nan, 0.0])
def test_documents_without_an_error_are_no_evidence(error: float) -> None:
    seen = judgement(0.03)
    seen.twin.documents, seen.twin.standard_error = 1, error
    assert take_look(seen, life(), 1).is_hopeless
