from __future__ import annotations

import math

import pytest
import torch

from esper.kasmina.executor.passes.statistics import PENDING_LIMIT, SMOOTHING, GradientStatistics


def test_norms_are_smoothed_in_order_however_they_are_read():
    norms = [3.0, 4.0, 5.0]
    at_once, one_by_one = GradientStatistics(), GradientStatistics()
    for norm in norms:
        at_once.add([torch.tensor([norm])])
        one_by_one.add([torch.tensor([norm])])
        one_by_one.read()
    expected = 3.0
    for norm in norms[1:]:
        expected += SMOOTHING * (norm - expected)
    assert at_once.read() == (pytest.approx(expected), True)
    assert one_by_one.read()[0] == at_once.read()[0]


def test_the_norm_is_over_all_gradients():
    statistics = GradientStatistics()
    statistics.add([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
    assert statistics.read()[0] == pytest.approx(5.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_told_once(value):
    statistics = GradientStatistics()
    statistics.add([torch.tensor([value])])
    norm, are_finite = statistics.read()
    assert not math.isfinite(norm)
    assert are_finite is False
    statistics.add([torch.tensor([1.0])])
    assert statistics.read()[1] is True


def test_nothing_is_told_before_the_first_backward_pass():
    statistics = GradientStatistics()
    statistics.add([])
    assert statistics.read() == (None, None)


def test_pending_norms_are_bounded_and_kept_by_a_checkpoint():
    statistics = GradientStatistics()
    for _ in range(PENDING_LIMIT + 1):
        statistics.add([torch.tensor([2.0])])
    assert len(statistics._pending) == 1
    other = GradientStatistics()
    other.load_state_dict(statistics.state_dict())
    assert other.read() == statistics.read() == (2.0, True)
