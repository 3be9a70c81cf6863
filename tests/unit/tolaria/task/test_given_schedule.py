"""The table of a torch scheduler holds what the scheduler itself sets, step by step and group by group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.given_schedule import torch_schedule

STEPS = 25
SCHEDULERS: dict[str, Any] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.02], STEPS + 1),
    "steps": lambda o: lr_scheduler.MultiStepLR(o, [4, 9]),
    "groups": lambda o: lr_scheduler.LambdaLR(o, [lambda n: 1 / (n + 1), lambda n: 0.9**n]),
    "in sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)], [5]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def optimizer() -> torch.optim.Optimizer:
    layers = nn.Linear(3, 3)
    return torch.optim.SGD([{"params": [layers.weight]}, {"params": [layers.bias], "lr": 0.01}], lr=0.05, momentum=0.9)


def settings(of: torch.optim.Optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["momentum"]) for group in of.param_groups]


@pytest.mark.parametrize("is_instance", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_table_is_the_walk(name, is_instance):
    walked, given = optimizer(), optimizer()
    scheduler = SCHEDULERS[name](walked)
    own = SCHEDULERS[name](given) if is_instance else SCHEDULERS[name]
    before = settings(given)
    table = torch_schedule(TrainConfig(), given, own, STEPS)
    assert settings(given) == before
    for step in range(STEPS):
        table.apply(given, step)
        assert settings(given) == settings(walked)
        walked.step()
        scheduler.step()
    table.apply(given, 3)
    assert given.param_groups[0]["lr"] == table.rate(3)


def test_a_factor_holds_for_every_group_and_is_saved():
    table = torch_schedule(TrainConfig(decay_fraction=0.2), optimizer(), SCHEDULERS["cosine"], STEPS)
    assert table.growth_end_step == 20
    table.factor = 0.5
    other = torch_schedule(TrainConfig(), optimizer(), SCHEDULERS["cosine"], STEPS)
    other.load_state_dict(table.state_dict())
    given = optimizer()
    other.apply(given, 0)
    assert [group["lr"] for group in given.param_groups] == [0.025, 0.005]


def test_schedulers_that_a_run_cannot_use_are_refused():
    config, given = TrainConfig(), optimizer()
    with pytest.raises(ConfigError, match="follows what is measured"):
        torch_schedule(config, given, lr_scheduler.ReduceLROnPlateau(given), STEPS)
    with pytest.raises(ConfigError, match="is over another optimiser"):
        torch_schedule(config, given, lr_scheduler.StepLR(optimizer(), 1), STEPS)
    with pytest.raises(ConfigError, match="expected a torch scheduler, or a function"):
        torch_schedule(config, given, 3, STEPS)
    with pytest.raises(ConfigError, match="is what the function gives; expected a torch scheduler"):
        torch_schedule(config, given, lambda of: 3, STEPS)
