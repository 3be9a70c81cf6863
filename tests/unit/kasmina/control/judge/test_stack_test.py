"""The judge of stacks: both errors by hand, every verdict, and what it refuses to believe."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esper.kasmina.control.judge.stack_plan import PlannedLook, StackSettings
from esper.kasmina.control.judge.stack_test import Evaluation, Verdict, document_error, take_stack_look, wander_error
from esper.kasmina.control.judge.student import student_quantile

STEPS = (210, 220, 230, 240, 250, 260, 270, 280)
ALONE = StackSettings(min_evaluations=3, wander_weight=0, memory_steps=0.0)
KEEPS = (0.030, 0.033, 0.031, 0.029, 0.032, 0.030, 0.031, 0.032)


def evaluations(gains: Sequence[float], steps: Sequence[int] = STEPS, **changes: Any) -> list[Evaluation]:
    facts: dict[str, Any] = {"variance": 0.0005, "samples": 500, "clipped_share": 0.001, "twin_score": 0.9}
    return [Evaluation(step=step, gain=gain, **{**facts, **changes}) for step, gain in zip(steps, gains, strict=False)]


def look(*, may_refuse: bool = False, error: float = 0.009) -> PlannedLook:
    return PlannedLook(evaluations=STEPS, error=error, may_refuse=may_refuse)


def test_a_falling_gain_counts_its_fall_as_scatter() -> None:
    error, freedom = wander_error(evaluations([0.03, 0.02, 0.01]), ALONE)
    assert error == pytest.approx(0.01 / math.sqrt(3))
    assert freedom == 2


def test_a_rising_gain_counts_only_its_scatter_about_a_line() -> None:
    error, freedom = wander_error(evaluations([0.01, 0.02, 0.04]), ALONE)
    assert error == pytest.approx(math.sqrt(1e-4 / 6 / 3))
    assert freedom == 1


def test_known_wander_counts_beside_the_scatter_by_its_degrees_of_freedom() -> None:
    settings = replace(ALONE, wander_weight=6, wander_share=0.1)
    error, freedom = wander_error(evaluations([0.03, 0.02, 0.01], variance=0.04), settings)
    assert freedom == 8
    assert error == pytest.approx(math.sqrt((6 * 0.0004 + 2 * 0.0001) / 8 / 3))


def test_one_evaluation_at_which_a_document_blew_up_does_not_enlarge_the_known_wander() -> None:
    settings = replace(ALONE, wander_weight=6)
    calm = evaluations([0.03, 0.02, 0.01])
    blown = [replace(calm[0], variance=1.0), *calm[1:]]
    assert wander_error(blown, settings) == wander_error(calm, settings)


def test_correlated_evaluations_are_worth_fewer() -> None:
    """Two evaluations' correlation r at each distance: the mean's variance is (3 + 4 r + 2 r^2) / 9 of one's."""
    settings = replace(ALONE, memory_steps=10.0)
    r = math.exp(-1.0)
    one_variance = 2e-4 / (3 - (3 + 4 * r + 2 * r * r) / 3)
    error, _ = wander_error(evaluations([0.03, 0.02, 0.01]), settings)
    assert error == pytest.approx(math.sqrt(one_variance * (3 + 4 * r + 2 * r * r) / 9))


def test_a_line_takes_more_of_correlated_scatter_with_it_and_the_error_says_so() -> None:
    settings = replace(ALONE, memory_steps=10.0)
    r = math.exp(-1.0)
    inflation = (3 + 4 * r + 2 * r * r) / 3
    one_variance = 1e-4 / 6 / (3 - inflation - (1 - r * r))
    error, _ = wander_error(evaluations([0.01, 0.02, 0.04]), settings)
    assert error == pytest.approx(math.sqrt(one_variance * inflation / 3))


def test_evaluating_the_same_stretch_four_times_as_often_does_not_halve_the_error() -> None:
    known = replace(StackSettings(), wander_weight=10_000)
    often = evaluations([0.03 + 0.001 * (index % 3) for index in range(32)], steps=range(201, 281, 1))
    error, _ = wander_error(evaluations(KEEPS), known)
    dense = [replace(evaluation, step=int(200 + 2.5 * (index + 1))) for index, evaluation in enumerate(often)]
    assert wander_error(dense, known)[0] > 0.8 * error


def test_evaluations_do_not_average_out_the_error_of_the_judging_set_that_they_share() -> None:
    assert document_error(evaluations([0.01] * 3, variance=0.05)) == pytest.approx(0.01)
    assert document_error(evaluations([0.01] * 8, variance=0.05)) == pytest.approx(0.01)


def in_parts(gains: Sequence[float], parts: Sequence[int | None], **changes: Any) -> list[Evaluation]:
    return [replace(each, part=part) for each, part in zip(evaluations(gains, **changes), parts, strict=True)]


def test_parts_average_out_the_error_of_a_judging_set_that_they_do_not_share() -> None:
    four = in_parts([0.03] * 4, range(4), steps=STEPS[:4], error=0.002)
    assert document_error(four) == pytest.approx(0.002 / 2)
    twice = in_parts([0.03] * 4, [0, 1, 0, 1], steps=STEPS[:4], error=0.002)
    assert document_error(twice) == pytest.approx(0.002 / math.sqrt(2))


def test_what_parts_differ_by_for_their_documents_is_no_wander() -> None:
    """Scatter that the parts' own errors explain leaves no wander; what they can't explain is left."""
    gains = [0.03, 0.01, 0.03, 0.01]
    about_mean = 4 * 0.01**2
    explained = in_parts(gains, range(4), steps=STEPS[:4], error=0.02)
    assert wander_error(explained, ALONE)[0] == 0.0
    partly = in_parts(gains, range(4), steps=STEPS[:4], error=0.005)
    # The gains fall by a line of 0.0004 a step: its slope is scatter, so squares are about the mean.
    assert wander_error(partly, ALONE)[0] == pytest.approx(math.sqrt((about_mean - 3 * 0.005**2) / 3 / 4))
    shared = in_parts(gains, [0] * 4, steps=STEPS[:4], error=0.005)
    assert wander_error(shared, ALONE)[0] == pytest.approx(math.sqrt(about_mean / 3 / 4))


def test_parts_count_together_for_the_samples_that_are_needed() -> None:
    settings = StackSettings(min_samples=300)
    few = in_parts(KEEPS, range(8), samples=38, variance=0.0005)
    assert take_stack_look(look(), few, settings).verdict is Verdict.KEEP
    shared = in_parts(KEEPS, [None] * 8, samples=38, variance=0.0005)
    assert "38 samples, at least 300" in take_stack_look(look(), shared, settings).reason


@given(seed=st.integers(0, 2**31))
def test_a_set_scored_whole_is_one_part_whatever_its_name(seed: int) -> None:
    rng = random.Random(seed)
    gains = [rng.gauss(0.01, 0.004) for _ in STEPS]
    whole, named = in_parts(gains, [None] * 8), in_parts(gains, [3] * 8)
    settings = StackSettings()
    assert (document_error(whole), wander_error(whole, settings)) == (
        document_error(named),
        wander_error(named, settings),
    )


def test_the_two_errors_add_in_squares_and_the_wanders_is_read_by_students_t() -> None:
    settings = StackSettings()
    taken = take_stack_look(look(error=0.01), evaluations(KEEPS), settings)
    wander, freedom = wander_error(evaluations(KEEPS), settings)
    assert taken.z_threshold == pytest.approx(2.3263, abs=1e-4)
    scaled = wander * student_quantile(0.01, freedom) / taken.z_threshold
    assert taken.document_error == pytest.approx(0.001)
    assert taken.standard_error == pytest.approx(math.hypot(0.001, scaled))
    assert taken.z == pytest.approx((taken.gain - 0.002) / taken.standard_error)
    assert taken.gain == pytest.approx(sum(KEEPS) / 8)


def test_a_gain_well_beyond_the_margin_is_kept_at_any_look() -> None:
    for may_refuse in (False, True):
        taken = take_stack_look(look(may_refuse=may_refuse), evaluations(KEEPS), StackSettings())
        assert taken.verdict is Verdict.KEEP
        assert "gain 0.0310" in taken.reason


@pytest.mark.parametrize("gain", [0.003, 0.0, -0.5])
def test_nothing_is_culled_at_a_first_look_however_far_behind(gain: float) -> None:
    seen = evaluations([gain + 0.0001 * (index % 2) for index in range(8)])
    assert take_stack_look(look(), seen, StackSettings()).verdict is Verdict.CONTINUE
    assert take_stack_look(look(may_refuse=True), seen, StackSettings()).verdict is Verdict.CULL


def test_the_margin_is_in_the_way_of_a_gain_that_is_certain_and_small() -> None:
    seen = evaluations([gain - 0.0275 for gain in KEEPS], variance=1e-6)
    assert take_stack_look(look(), seen, StackSettings(margin=0.0)).verdict is Verdict.KEEP
    assert take_stack_look(look(), seen, StackSettings(margin=0.005)).verdict is Verdict.CONTINUE


def test_a_stricter_share_of_the_error_keeps_less() -> None:
    seen = evaluations([gain - 0.0235 for gain in KEEPS])
    assert take_stack_look(look(error=0.1), seen, StackSettings()).verdict is Verdict.KEEP
    assert take_stack_look(look(error=0.0001), seen, StackSettings()).verdict is Verdict.CONTINUE


def test_evaluations_that_no_look_planned_count_for_nothing() -> None:
    early = evaluations([-5.0, 7.0], steps=[100, 205])
    assert take_stack_look(look(), [*early, *evaluations(KEEPS)], StackSettings()) == take_stack_look(
        look(), evaluations(KEEPS), StackSettings()
    )


def test_what_is_surely_short_of_the_margin_is_not_called_undecided() -> None:
    worse, open_still = evaluations([-gain for gain in KEEPS]), evaluations([gain - 0.03 for gain in KEEPS])
    for may_refuse, end in ((False, ": gain"), (True, ", and no further look is left: gain")):
        planned = look(may_refuse=may_refuse)
        assert take_stack_look(planned, worse, StackSettings()).reason.startswith(f"short of the margin{end}")
        assert take_stack_look(planned, open_still, StackSettings()).reason.startswith(f"undecided{end}")


def test_too_many_clipped_tokens_at_one_evaluation_keep_nothing() -> None:
    seen = evaluations(KEEPS)
    seen[3] = replace(seen[3], clipped_share=0.011)
    undecided = take_stack_look(look(), seen, StackSettings())
    assert undecided.verdict is Verdict.CONTINUE
    assert "1.1% of the tokens are clipped" in undecided.reason
    assert take_stack_look(look(may_refuse=True), seen, StackSettings()).verdict is Verdict.CULL
    seen[3] = replace(seen[3], clipped_share=0.01)
    assert take_stack_look(look(), seen, StackSettings()).verdict is Verdict.KEEP


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"gain": math.nan}, "not finite"),
        ({"gain": math.inf}, "not finite"),
        ({"gain": 1e300}, "no losses"),
        ({"variance": math.nan}, "not finite"),
        ({"clipped_share": math.nan}, "not finite"),
        ({"twin_score": math.inf}, "not finite"),
        ({"variance": 0.0}, "no variance"),
        ({"variance": -1.0}, "no variance"),
        ({"samples": 299}, "299 samples, at least 300"),
        ({"step": 281}, "planned were"),
    ],
)
def test_evidence_that_cannot_be_right_culls_at_once_and_says_why(change: dict[str, Any], problem: str) -> None:
    seen = evaluations(KEEPS)
    seen[-1] = replace(seen[-1], **change)
    taken = take_stack_look(look(), seen, StackSettings())
    assert taken.verdict is Verdict.CULL
    assert problem in taken.reason
    assert math.isnan(taken.z)


def test_a_gain_that_never_moves_is_no_training() -> None:
    taken = take_stack_look(look(), evaluations([0.03] * 8), StackSettings())
    assert taken.verdict is Verdict.CULL
    assert "the same at every evaluation" in taken.reason


def test_fewer_evaluations_than_the_settings_ask_for_are_no_evidence() -> None:
    planned = PlannedLook(evaluations=STEPS[:7], error=0.01, may_refuse=False)
    taken = take_stack_look(planned, evaluations(KEEPS[:7]), StackSettings())
    assert taken.verdict is Verdict.CULL
    assert "7 evaluations, at least 8" in taken.reason
    assert take_stack_look(planned, [], StackSettings()).verdict is Verdict.CULL


FIGURES = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(FIGURES, FIGURES, FIGURES, FIGURES), min_size=8, max_size=8), st.booleans())
@example([(0.01, 1.0, 0.0, 2.0)] * 6 + [(0.01, math.inf, 0.0, 2.0), (0.01, -math.inf, 0.0, 2.0)], False)
def test_any_figures_at_all_end_in_a_verdict_and_only_finite_ones_keep(
    rows: list[tuple[float, float, float, float]], may_refuse: bool
) -> None:
    seen = [
        Evaluation(step=step, gain=gain, variance=variance, samples=500, clipped_share=clipped, twin_score=twin)
        for step, (gain, variance, clipped, twin) in zip(STEPS, rows, strict=True)
    ]
    taken = take_stack_look(look(may_refuse=may_refuse), seen, StackSettings())
    if taken.verdict is Verdict.KEEP:
        assert all(math.isfinite(figure) for row in rows for figure in row)
        assert taken.gain > StackSettings().margin
    assert not (may_refuse and taken.verdict is Verdict.CONTINUE)


def _is_distinct(gains: list[float]) -> bool:
    """Neither their spread nor the sign of their slope, on which a freedom depends, is a matter of rounding."""
    offsets = [step - fmean(STEPS) for step in STEPS]
    slope = sum(offset * gain for offset, gain in zip(offsets, gains, strict=True))
    return max(gains) - min(gains) > 1e-6 and abs(slope) > 1e-9


GAINS = st.lists(st.floats(-0.1, 0.1), min_size=8, max_size=8).filter(_is_distinct)


@given(GAINS, st.floats(0.0, 0.1))
def test_more_gain_at_every_evaluation_never_loses_a_kept_stack(gains: list[float], more: float) -> None:
    before = take_stack_look(look(), evaluations(gains), StackSettings())
    after = take_stack_look(look(), evaluations([gain + more for gain in gains]), StackSettings())
    assert after.z >= before.z - 1e-6 * (1 + abs(before.z))


@given(GAINS, st.floats(0.01, 100.0))
def test_the_unit_of_the_loss_does_not_matter(gains: list[float], unit: float) -> None:
    nats = take_stack_look(look(), evaluations(gains), StackSettings())
    scaled = take_stack_look(
        look(),
        evaluations([unit * gain for gain in gains], variance=0.0005 * unit * unit),
        StackSettings(margin=0.002 * unit),
    )
    assert scaled.z == pytest.approx(nats.z, rel=1e-6, abs=1e-9)


def test_the_judging_sets_error_is_that_of_documents_and_the_wander_is_known_by_sequences() -> None:
    plain, clustered = evaluations(KEEPS), evaluations(KEEPS, error=0.02)
    assert document_error(plain) == pytest.approx(math.sqrt(0.0005 / 500))
    assert document_error(clustered) == pytest.approx(0.02)
    assert wander_error(plain, StackSettings()) == wander_error(clustered, StackSettings())
    kept, undecided = (take_stack_look(look(), seen, StackSettings()) for seen in (plain, clustered))
    assert (kept.verdict, undecided.verdict) == (Verdict.KEEP, Verdict.CONTINUE)


def test_documents_without_an_error_cull() -> None:
    culled = take_stack_look(look(), evaluations(KEEPS, error=math.nan), StackSettings())
    assert (culled.verdict, culled.reason) == (Verdict.CULL, "the scores are not finite, or no losses")
