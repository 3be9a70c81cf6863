from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Budget, LossPoint, PolicySignalId, TaskType, TriggerSettings
from esper.tamiyo.signals import MIN_POINTS, as_messages, observe, relative_fall, value_of
from tests.unit.tamiyo.builders import AUTO, context, first_state, packet, spec


def points(losses: list[float], every: int = 10) -> list[LossPoint]:
    return [LossPoint(step=every * place, loss=loss) for place, loss in enumerate(losses)]


def test_a_straight_fall_has_its_slope_as_a_share_of_the_mean_loss() -> None:
    assert relative_fall(points([1.0, 0.9, 0.8, 0.7, 0.6]), 40) == pytest.approx(1.0 / 0.8)


def test_a_flat_loss_does_not_fall_and_a_rising_one_falls_negatively() -> None:
    assert relative_fall(points([0.3] * 6), 50) == 0.0
    fall = relative_fall(points([0.3, 0.31, 0.32, 0.33, 0.34, 0.35]), 50)
    assert fall is not None
    assert fall < 0


def test_the_slope_is_unknown_until_the_window_is_full() -> None:
    assert relative_fall(points([1.0] * (MIN_POINTS - 1)), 10) is None
    assert relative_fall(points([1.0] * 5), 100) is None
    assert relative_fall(points([1.0] * 11), 100) == 0.0


@given(st.floats(0.01, 100.0), st.lists(st.floats(0.1, 3.0), min_size=6, max_size=20))
def test_the_slope_does_not_depend_on_the_unit_of_the_loss(scale: float, losses: list[float]) -> None:
    plain = relative_fall(points(losses), 50)
    scaled = relative_fall(points([scale * loss for loss in losses]), 50)
    assert plain is not None
    assert scaled is not None
    assert scaled == pytest.approx(plain, rel=1e-6, abs=1e-9)


def test_one_noisy_packet_moves_the_slope_less_than_two_points_would() -> None:
    spoilt = [0.3] * 11
    spoilt[5] = 0.45
    fall = relative_fall(points(spoilt), 100)
    assert fall is not None
    assert abs(fall) < 0.01


def test_the_window_keeps_its_length_and_at_least_enough_points() -> None:
    state, run = first_state(), context()
    for step in range(10, 1000, 10):
        observe(state, packet(step), run)
        steps = [point.step for point in state.window]
        assert steps == sorted(steps)
        assert steps[0] >= step - run.trigger.window_steps
    sparse = first_state()
    for step in range(500, 5000, 500):
        observe(sparse, packet(step), run)
    assert len(sparse.window) == MIN_POINTS


def test_a_loss_that_is_no_number_stays_out_of_the_window() -> None:
    state, run = first_state(), context()
    observe(state, packet(10, loss=0.4), run)
    signals = observe(state, packet(20, loss=math.nan), run)
    assert len(state.window) == 1
    assert signals.smoothed_loss == 0.4


def test_what_was_not_measured_is_unknown_and_not_zero() -> None:
    bare = packet(10)
    for name in ("training_accuracy", "gradient_norm", "smoothed_loss_standard_error"):
        bare.metrics.ClearField(name)  # type: ignore[arg-type]
    signals = observe(first_state(), bare, context())
    assert (signals.accuracy, signals.gradient_norm, signals.loss_standard_error) == (None, None, None)
    ids = {signal.id for signal in as_messages(signals, context())}
    assert PolicySignalId.POLICY_SIGNAL_ID_SATURATION not in ids
    assert PolicySignalId.POLICY_SIGNAL_ID_SLOPE_THRESHOLD in ids


def test_the_steps_left_end_where_a_seed_could_no_longer_finish_before_the_decay() -> None:
    run = context()
    last_chance = run.spec.life.growth_end_step - run.life_steps
    assert observe(first_state(), packet(last_chance - 10), run).steps_left == 10
    assert observe(first_state(), packet(last_chance + 500), run).steps_left == 0


def test_the_parameters_left_are_those_of_the_budget() -> None:
    limited = context(spec(budget=Budget(max_parameters=600)))
    signals = observe(first_state(), packet(10), limited)
    assert signals.parameters_left == 600 - packet(10).metrics.parameters
    assert value_of(as_messages(signals, limited), PolicySignalId.POLICY_SIGNAL_ID_PARAMETERS_LEFT) == 98
    assert observe(first_state(), packet(10), context()).parameters_left is None


def test_a_regressions_floor_is_a_share_of_its_first_loss_whatever_the_targets_unit() -> None:
    for unit in (1e-4, 1.0, 1e4):
        run_spec = spec()
        run_spec.manifest.task = TaskType.TASK_TYPE_REGRESSION
        run, state = context(run_spec), first_state(run_spec)
        first = observe(state, packet(10, loss=2.0 * unit), run)
        later = observe(state, packet(20, loss=0.5 * unit), run)
        assert first.saturation_floor == later.saturation_floor == pytest.approx(0.02 * unit)


def test_a_floor_that_a_run_names_is_a_loss() -> None:
    run_spec = spec(trigger=TriggerSettings(trigger=AUTO, saturation_floor=0.3))
    run_spec.manifest.task = TaskType.TASK_TYPE_REGRESSION
    assert observe(first_state(run_spec), packet(10, loss=2.0), context(run_spec)).saturation_floor == 0.3


def test_a_first_loss_of_zero_still_leaves_something_to_divide_by() -> None:
    run_spec = spec()
    run_spec.manifest.task = TaskType.TASK_TYPE_REGRESSION
    assert observe(first_state(run_spec), packet(10, loss=0.0), context(run_spec)).saturation_floor > 0.0
