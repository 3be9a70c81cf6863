"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest
import torch

from esper.tolaria.config import TrainConfig
from esper.tolaria.task.schedule import make_schedule

SCHEDULE = make_schedule(TrainConfig(lr=0.01, warmup_steps=50, decay_fraction=0.3), 2000)


def test_it_warms_up_holds_and_decays_to_almost_nothing() -> None:
    rates = [SCHEDULE.rate(step) for step in range(2000)]
    assert rates[0] == pytest.approx(0.01 / 51)
    assert rates[:51] == sorted(rates[:51])
    assert set(rates[50:1401]) == {0.01}
    assert rates[1400:] == sorted(rates[1400:], reverse=True)
    assert 0.0 < rates[-1] < 0.01 / 500


def test_growth_may_last_until_the_decay_begins() -> None:
    assert SCHEDULE.growth_end_step == 1400


def test_it_sets_every_group_and_remembers_its_factor() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)], lr=1.0)
    schedule = make_schedule(TrainConfig(lr=0.01), 2000)
    schedule.factor = 0.5
    assert schedule.apply(optimizer, 100) == pytest.approx(0.005)
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.005]
    restored = make_schedule(TrainConfig(lr=0.01), 2000)
    restored.load_state_dict(schedule.state_dict())
    assert restored.rate(100) == schedule.rate(100)


def test_no_decay_is_a_constant_rate() -> None:
    schedule = make_schedule(TrainConfig(lr=0.01, decay_fraction=0.0, warmup_steps=0), 100)
    assert {schedule.rate(step) for step in range(100)} == {0.01}
