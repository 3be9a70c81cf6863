"""The learning rate as a function of the step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.optimizers.schedule import growth_end_step, make_schedule, shares_of

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


@pytest.mark.parametrize(
    ("settings", "end", "words"),
    [
        ({}, 1400, "decays from step 1,400"),
        ({"decay_fraction": 0.5}, 1000, "decays from step 1,000"),
        ({"schedule": "cosine"}, 1400, "falls along a cosine, and nothing grows from step 1,400"),
        ({"schedule": "cosine", "decay_fraction": 0.0}, 2000, "falls along a cosine"),
        ({"schedule": "constant"}, 2000, "stays as it is"),
    ],
)
def test_a_schedule_says_where_growth_ends(settings: dict[str, Any], end: int, words: str) -> None:
    config = TrainConfig(**settings)
    assert make_schedule(config, 2000).growth_end_step == end == growth_end_step(config, 2000)
    assert make_schedule(config, 2000).outlook.startswith(words)


def halved(step: int) -> float:
    return 0.5 ** (step // 500)


def test_a_function_of_ones_own_gives_the_share_of_every_step_and_growth_ends_where_it_is_told() -> None:
    config = TrainConfig(lr=0.01, schedule=f"{__name__}:halved", warmup_steps=50)
    schedule = make_schedule(config, 2000)
    assert [schedule.rate(step) for step in (0, 499, 500, 1999)] == [0.01, 0.01, 0.005, 0.00125]
    # From step 1,000 on it is a quarter, which is too low to learn enough by.
    assert schedule.growth_end_step == 1000 == growth_end_step(config, 2000)
    assert make_schedule(replace(config, decay_fraction=0.1), 2000).growth_end_step == 1800


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (0.5, "expected a function (step) -> share of the learning rate"),
        (lambda: 0.5, "takes ()"),
        (lambda step: None, "gives None at step 0"),
        (lambda step: 5 - step, "gives -1 at step 6"),
        (lambda step: float("nan"), "gives nan at step 0"),
    ],
)
def test_a_function_that_gives_no_rates_is_refused_in_one_line(function: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shares_of(function, "mine:share", 20)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cosine_falls_from_the_warm_up_on_to_a_tenth() -> None:
    schedule = make_schedule(TrainConfig(lr=0.01, warmup_steps=50, schedule="cosine"), 2000)
    rates = [schedule.rate(step) for step in range(2000)]
    assert max(rates) == rates[50] == 0.01
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] == pytest.approx(0.001, rel=1e-4)
    assert rates[1400] == pytest.approx(0.0030, abs=1e-4)


def test_no_decay_is_a_constant_rate() -> None:
    schedule = make_schedule(TrainConfig(lr=0.01, decay_fraction=0.0, warmup_steps=0), 100)
    assert {schedule.rate(step) for step in range(100)} == {0.01}
