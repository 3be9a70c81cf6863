"""What stands beside a stack's verdict: equal cost, the forecast, recovery."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.control.judge.stack_outlook import ArmCosts, forecast, gain_at_equal_flops, recovery_steps
from esper.kasmina.control.judge.stack_test import Evaluation

TWICE = ArmCosts(twin=1.5, grown=3.0)


def evaluation(step: int, *, twin: float = 1.0, grown: float = 1.0) -> Evaluation:
    return Evaluation(step=step, gain=twin - grown, variance=0.01, samples=500, clipped_share=0.0, twin_score=twin)


def test_at_equal_flops_the_twin_is_set_beside_what_the_grown_network_was_at_half_its_steps() -> None:
    seen = [evaluation(1100, grown=0.9), evaluation(1150, grown=0.85), evaluation(1200, twin=0.88, grown=0.8)]
    assert gain_at_equal_flops(seen, 1000, TWICE) == pytest.approx(0.88 - 0.9)


def test_between_two_evaluations_the_grown_networks_loss_is_drawn_straight() -> None:
    seen = [evaluation(1100, grown=0.9), evaluation(1200, grown=0.8), evaluation(1300, twin=0.88, grown=0.7)]
    assert gain_at_equal_flops(seen, 1000, TWICE) == pytest.approx(((1.0 - 0.9) + (0.88 - 0.85)) / 2)


def test_without_an_evaluation_early_enough_there_is_no_gain_at_equal_flops() -> None:
    assert gain_at_equal_flops([evaluation(1250), evaluation(1300)], 1000, TWICE) is None
    assert gain_at_equal_flops([], 1000, TWICE) is None


def test_a_loss_that_falls_with_one_over_the_step_is_forecast_exactly() -> None:
    seen = [evaluation(step, twin=0.8 + 100 / step, grown=0.6 + 300 / step) for step in (1200, 1250, 1300)]
    ahead = forecast(seen, graft_step=1000, end_step=2000, costs=TWICE)
    assert ahead is not None
    assert ahead.grown == pytest.approx(0.6 + 300 / 2000)
    assert ahead.twin == pytest.approx(0.8 + 100 / 2000)
    assert ahead.twin_at_equal_flops == pytest.approx(0.8 + 100 / 3000)
    assert ahead.gain_at_equal_steps == pytest.approx(0.85 - 0.75)
    assert ahead.gain_at_equal_flops == pytest.approx(0.8 + 100 / 3000 - 0.75)


def test_one_moment_forecasts_nothing() -> None:
    assert forecast([evaluation(1200)], graft_step=1000, end_step=2000, costs=TWICE) is None
    assert forecast([evaluation(1200)] * 2, graft_step=1000, end_step=2000, costs=TWICE) is None


def test_recovery_ends_where_the_summed_gain_turns() -> None:
    gains = {20: -0.01, 40: -0.003, 60: 0.014, 80: 0.005}
    assert recovery_steps([evaluation(500 + step, grown=1 - gain) for step, gain in gains.items()], 500) == 60


def test_one_lucky_evaluation_ends_no_recovery() -> None:
    gains = {20: -0.01, 40: 0.002, 60: -0.009, 80: 0.005}
    assert recovery_steps([evaluation(500 + step, grown=1 - gain) for step, gain in gains.items()], 500) == 80


def test_what_was_ahead_and_lost_it_again_recovers_the_second_time() -> None:
    gains = {20: 0.25, 40: -0.25, 60: 0.5}
    assert recovery_steps([evaluation(500 + step, grown=1 - gain) for step, gain in gains.items()], 500) == 60


def test_what_never_came_back_has_no_recovery() -> None:
    assert recovery_steps([evaluation(520, grown=1.1), evaluation(540, grown=1.01)], 500) is None
    assert recovery_steps([], 500) is None


def test_what_was_ahead_from_the_start_recovered_by_its_first_evaluation() -> None:
    assert recovery_steps([evaluation(520, grown=0.9), evaluation(540, grown=0.9)], 500) == 20


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_recovery_is_an_evaluation_after_which_the_gain_is_positive_on_the_whole(gains: list[float]) -> None:
    seen = [evaluation(500 + 20 * index, grown=1 - gain) for index, gain in enumerate(gains, start=1)]
    found = recovery_steps(seen, 500)
    after = [e.gain for e in seen if found is not None and e.step - 500 >= found]
    assert sum(after) >= -1e-9
    if found is None:
        assert seen[-1].gain <= 1e-9
