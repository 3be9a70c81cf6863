"""Torch's schedulers: runs are the bare loop bit for bit, culls are exact, and what can't be known is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as lr

from esper.core.errors import ConfigError
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.optimizers.schedule import fallen_step, growth_end_step, make_schedule
from esper.tolaria.task.optimizers.torch_schedule import TorchSchedule, handed_over, makes_scheduler, torch_schedule
from esper.tolaria.task.prepare import prepare
from esper.tolaria.task.randomness import seed_all
from tests.unit.tolaria.runs.test_optimizer_runs import CONFIG as GROWING
from tests.unit.tolaria.runs.test_optimizer_runs import SPAN, run
from tests.unit.tolaria.scripted_control import ScriptedControl, germination
from tests.unit.tolaria.task.optimizers.test_optimizers import CONFIG, STEPS, same_weights, trained
from tests.unit.tolaria.test_trainer import CULLED

HERE = __name__


def warm_then_cosine(optimizer: optim.Optimizer) -> lr.LRScheduler:
    parts = [lr.LinearLR(optimizer, 0.1, total_iters=8), lr.CosineAnnealingLR(optimizer, 12, eta_min=1e-4)]
    return lr.SequentialLR(optimizer, parts, milestones=[8])


def one_cycle(optimizer: optim.Optimizer, total_steps: int) -> lr.LRScheduler:
    return lr.OneCycleLR(optimizer, 0.02, total_steps=total_steps)


def steps_down(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.MultiStepLR(optimizer, [6, 12], 0.2)


def restarts(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.CosineAnnealingWarmRestarts(optimizer, 5, 2)


def chained(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.ChainedScheduler([lr.ConstantLR(optimizer, 0.5, 4), lr.ExponentialLR(optimizer, 0.95)])


def inverse_root(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.LambdaLR(optimizer, lambda step: (1 + step) ** -0.5)


MADE: dict[str, Callable[..., lr.LRScheduler]] = {
    made.__name__: made for made in (warm_then_cosine, one_cycle, steps_down, restarts, chained, inverse_root)
}


def scheduler_of(name: str, optimizer: optim.Optimizer) -> lr.LRScheduler:
    return one_cycle(optimizer, STEPS) if name == "one_cycle" else MADE[name](optimizer)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore")
def test_without_growth_a_run_is_the_bare_loop_under_torchs_scheduler(name: str) -> None:
    config = replace(CONFIG, schedule=f"{HERE}:{name}", optimizer="adamw", weight_decay=0.1)
    loader, model = prepare(config).loader, build_model(config, (64,), 10)
    optimizer = optim.AdamW(model.parameters(), 0.01, weight_decay=0.1, fused=True)
    scheduler = scheduler_of(name, optimizer)
    for step in range(STEPS):
        inputs, targets = loader.batch(step)
        seed_all(torch.device("cpu"), config.seed, "step", step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()
    assert same_weights(trained(config), model)


SCHEDULERS: dict[str, Any] = {
    "cosine": lambda o: lr.CosineAnnealingLR(o, STEPS),
    "restarts": restarts,
    "one cycle": lambda o: lr.OneCycleLR(o, [0.1, 0.02], STEPS + 1),
    "of a length": lambda o, total_steps: lr.OneCycleLR(o, [0.1, 0.02], total_steps),
    "steps": steps_down,
    "groups": lambda o: lr.LambdaLR(o, [lambda n: 1 / (n + 1), lambda n: 0.9**n]),
    "in sequence": warm_then_cosine,
    "chained": chained,
}


def two_groups() -> optim.Optimizer:
    layers = nn.Linear(3, 3)
    return optim.SGD([{"params": [layers.weight]}, {"params": [layers.bias], "lr": 0.01}], lr=0.05, momentum=0.9)


def settings(of: optim.Optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["momentum"]) for group in of.param_groups]


def table_of(given: Any, optimizer: optim.Optimizer) -> TorchSchedule:
    return torch_schedule(handed_over(given), optimizer, STEPS, growth_end_step=STEPS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_instance", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_table_is_the_walk_with_every_groups_rates_and_momenta(name: str, is_instance: bool) -> None:
    walked, given = two_groups(), two_groups()
    more = (STEPS,) if name == "of a length" else ()
    scheduler = SCHEDULERS[name](walked, *more)
    own = SCHEDULERS[name](given, *more) if is_instance else SCHEDULERS[name]
    before = settings(given)
    table = table_of(own, given)
    assert settings(given) == before
    for step in range(STEPS):
        table.apply(given, step)
        assert settings(given) == settings(walked)
        walked.step()
        if step + 1 < STEPS:
            scheduler.step()
    table.apply(given, 3)
    assert given.param_groups[0]["lr"] == table.rate(3)


def test_a_factor_holds_for_every_group_and_is_saved() -> None:
    table = table_of(SCHEDULERS["cosine"], two_groups())
    table.factor = 0.5
    other = table_of(SCHEDULERS["cosine"], two_groups())
    other.load_state_dict(table.state_dict())
    given = two_groups()
    other.apply(given, 0)
    assert [group["lr"] for group in given.param_groups] == [0.025, 0.005]


def test_a_scheduler_that_is_handed_over_ends_growth_where_the_settings_say() -> None:
    for changes, end in (({}, 14), ({"decay_fraction": 0.2}, 16)):
        config = replace(CONFIG, **changes)
        schedule = make_schedule(config, STEPS, two_groups(), SCHEDULERS["cosine"])
        assert schedule.growth_end_step == end == growth_end_step(config, STEPS)


def test_what_is_handed_over_and_is_no_scheduler_of_the_run_is_refused() -> None:
    given = two_groups()
    with pytest.raises(ConfigError, match=r"ReduceLROnPlateau wants to see losses.* loop of your own"):
        table_of(lr.ReduceLROnPlateau(given), given)
    with pytest.raises(ConfigError, match="scheduler = 'StepLR': is over another optimiser"):
        table_of(lr.StepLR(two_groups(), 1), given)
    with pytest.raises(ConfigError, match="expected a torch scheduler, or a function"):
        table_of(3, given)
    with pytest.raises(ConfigError, match="gives int, expected"):
        table_of(lambda of: 3, given)


def test_a_seed_that_enters_in_a_warm_up_never_learns_faster_than_its_host() -> None:
    """A cull then leaves the run that never grew."""
    config = replace(GROWING, schedule=f"{HERE}:warm_then_cosine", lr=0.01)
    culled = run(config, ScriptedControl(CULLED))[0]
    assert culled["weights_digest"] == run(config)[0]["weights_digest"]
    grown = run(config, ScriptedControl({4: germination("s1", SPAN)}), should_stop=stop_after(3))[1]
    host, seed = grown.arm.optimizer.param_groups
    assert 0 < seed["lr"] <= host["lr"]


def stop_after(boundaries: int) -> Callable[[], bool]:
    calls = iter(range(1, 1000))
    return lambda: next(calls) == boundaries


@pytest.mark.parametrize("name", ["chained", "steps_down", "inverse_root"])
def test_growth_ends_where_the_rate_is_too_low_for_good(name: str) -> None:
    config = replace(CONFIG, schedule=f"{HERE}:{name}", grow="auto", steps=200)
    schedule = make_schedule(config, 200)
    assert schedule.growth_end_step == growth_end_step(config, 200)
    peak = max(schedule.rate(step) for step in range(200))
    last = schedule.growth_end_step
    assert schedule.rate(last - 1) >= 0.3 * peak * (1 - 1e-6)
    assert all(schedule.rate(step) < 0.3 * peak for step in range(last, 200))
    assert last < 140
    assert make_schedule(replace(config, decay_fraction=0.3), 200).growth_end_step == 140
    # This one has its height at 60 and more than a third of it in the end of its middle.
    assert growth_end_step(replace(config, schedule=f"{HERE}:one_cycle"), 200) == 140


def test_a_rate_that_comes_back_has_not_fallen_for_good() -> None:
    assert fallen_step([1.0, 0.1, 0.1, 0.5, 0.1]) == 4
    assert fallen_step([0.1, 1.0]) == 2
    assert fallen_step([0.3, 1.0, 0.3]) == 3


def plateau(optimizer: optim.Optimizer) -> Any:
    return lr.ReduceLROnPlateau(optimizer)


def too_short(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.OneCycleLR(optimizer, 0.02, total_steps=10, cycle_momentum=False)


def no_scheduler(optimizer: optim.Optimizer) -> float:
    return 0.5


def unmade(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.OneCycleLR(optimizer, 0.02)


def wants_more(optimizer: optim.Optimizer, epochs: int) -> lr.LRScheduler:
    return lr.StepLR(optimizer, epochs)


def rising(optimizer: optim.Optimizer) -> lr.LRScheduler:
    return lr.LambdaLR(optimizer, lambda step: float("inf") if step == 3 else 1.0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "plateau",
            "ReduceLROnPlateau wants to see losses, so its rates aren't known before the run; use it in a loop",
        ),
        ("too_short", "gives no rate for step"),
        ("no_scheduler", "gives float, expected (optimizer) or (optimizer, total_steps) -> torch.optim.lr_scheduler"),
        ("unmade", "can't be made for 20 steps"),
        ("wants_more", "expected (optimizer) or (optimizer, total_steps)"),
        ("rising", "gives the rate inf at step 3; expected a number from 0 up"),
    ],
)
def test_what_gives_no_rates_before_the_run_is_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(replace(CONFIG, schedule=f"{HERE}:{name}"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.key == "schedule"


def test_a_class_of_torchs_is_a_schedule_too_and_a_function_of_a_step_is_none() -> None:
    assert makes_scheduler(lr.LinearLR)
    assert not makes_scheduler(lambda step: 0.5)
    schedule = make_schedule(replace(CONFIG, schedule="torch.optim.lr_scheduler:LinearLR"), 20)
    assert schedule.rate(0) == pytest.approx(0.01 / 3)
    assert schedule.rate(19) == pytest.approx(0.01)


@pytest.mark.parametrize("is_made", [True, False], ids=["a function", "a scheduler"])
def test_a_rate_that_is_a_tensor_stays_as_it_is(is_made: bool) -> None:
    """Torch's schedulers write into it, and groups share it, so that the last factor holds for all of them."""

    def decaying(optimizer: optim.Optimizer) -> lr.LRScheduler:
        return lr.LambdaLR(optimizer, [lambda step: 1.0, lambda step: 0.5**step])

    optimizer = torch.optim.SGD([{"params": [part]} for part in nn.Linear(2, 2).parameters()], lr=torch.tensor(0.5))
    source = handed_over(decaying if is_made else decaying(optimizer))
    for _ in range(2):
        table = torch_schedule(source, optimizer, 4, 3)
        assert [list(rates) for rates in table.rates] == [[0.5, 0.25, 0.125, 0.0625]] * 2
        assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5, 0.5]
        assert float(optimizer.defaults["lr"]) == 0.5
