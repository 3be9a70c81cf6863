"""Smoothed signals: deterministic, restorable, and honest about their error."""

from __future__ import annotations

import random

import pytest

from esper.tolaria.record.observer import StepDone
from esper.tolaria.record.signals import Signals, Smoothed


def done(step: int, loss: float, norm: float | None = None) -> StepDone:
    return StepDone(
        step=step,
        epoch=0,
        loss=loss,
        accuracy=0.5,
        gradient_norm=norm,
        learning_rate=0.1,
        conflict_rate=None,
        step_ms=1.0,
    )


def test_the_standard_error_covers_the_mean_of_noise_as_often_as_it_should() -> None:
    draw = random.Random(1)
    inside = 0
    for _ in range(200):
        smoothed = Smoothed(0.05)
        for _ in range(400):
            smoothed.add(draw.gauss(1.0, 0.3))
        inside += abs(smoothed.mean - 1.0) < 2 * (smoothed.standard_error or 0.0)
    assert 0.88 <= inside / 200 <= 1.0


def test_too_few_values_have_no_standard_error() -> None:
    smoothed = Smoothed(0.1)
    smoothed.add(2.0)
    assert (smoothed.mean, smoothed.standard_error) == (2.0, None)


def test_what_a_step_did_not_measure_changes_nothing() -> None:
    signals = Signals(0.1)
    signals.add(done(1, 1.0, norm=3.0))
    signals.add(done(2, 2.0))
    assert signals.gradient_norm.count == 1
    assert signals.conflict_rate.count == 0
    assert signals.loss.mean == pytest.approx(1.1)


def test_a_gradient_norm_that_is_not_finite_does_not_poison_the_signal() -> None:
    signals = Signals(0.1)
    signals.add(done(1, 1.0, norm=3.0))
    signals.add(done(2, 1.0, norm=float("inf")))
    assert signals.gradient_norm.mean == 3.0


def test_saved_signals_go_on_as_if_nothing_had_happened() -> None:
    whole, first, second = Signals(0.1), Signals(0.1), Signals(0.1)
    for step in range(20):
        whole.add(done(step, 1.0 / (step + 1), norm=float(step)))
        (first if step < 10 else second).add(done(step, 1.0 / (step + 1), norm=float(step)))
        if step == 9:
            second.load_state_dict(first.state_dict())
    assert whole.state_dict() == second.state_dict()
