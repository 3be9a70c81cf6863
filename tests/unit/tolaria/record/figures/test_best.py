"""Which epoch is the best, and how long none has gained."""

from __future__ import annotations

from math import nan

import pytest

from esper.tolaria.record.figures.best import Best


def noted(losses: list[float], min_delta: float = 0.0) -> Best:
    best = Best()
    for epoch, loss in enumerate(losses, 1):
        best.note(loss, None, epoch=epoch, step=10 * epoch, min_delta=min_delta)
    return best


@pytest.mark.parametrize(
    ("losses", "min_delta", "epoch", "idle"),
    [
        ([3.0, 2.0, 1.0], 0.0, 3, 0),
        ([3.0, 2.0, 2.0, 2.5], 0.0, 2, 2),
        ([3.0, 2.95, 2.9, 2.85], 0.1, 4, 0),
        ([3.0, 2.95, 2.92], 0.1, 3, 2),
        ([nan, nan], 0.0, 0, 2),
        ([nan, 2.0, nan], 0.0, 2, 1),
    ],
)
def test_the_lowest_loss_is_the_best_and_small_gains_are_waited_through(
    losses: list[float], min_delta: float, epoch: int, idle: int
) -> None:
    """Small gains add up: they are counted from the last one that was enough."""
    best = noted(losses, min_delta)
    assert (best.epoch, best.idle_epochs, best.is_there) == (epoch, idle, epoch > 0)


def test_it_comes_back_from_its_state() -> None:
    best = noted([3.0, 2.0, 2.5])
    assert Best.from_state(best.state_dict()) == best
