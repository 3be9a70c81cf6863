"""A seed in any optimiser and under any scheduler: groups stay in step, and nothing is trained that can't be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as lr

from esper.kasmina.executor.fold.fold import fold
from esper.kasmina.executor.graft import wiring
from esper.kasmina.executor.graft.wiring import group_by_host, optimizer_like
from esper.leyline import OptimizerAdjustment


def warm_then_cosine(optimizer: Optimizer) -> lr.SequentialLR:
    parts: list[Any] = [lr.LinearLR(optimizer, 0.5, total_iters=3), lr.CosineAnnealingLR(optimizer, 40)]
    return lr.SequentialLR(optimizer, parts, milestones=[3])


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "none": lambda optimizer: None,
    "step": lambda optimizer: lr.StepLR(optimizer, 4),
    "lambda": lambda optimizer: lr.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "cosine": lambda optimizer: lr.CosineAnnealingLR(optimizer, 40),
    "sequential": warm_then_cosine,
    "nested": lambda optimizer: lr.SequentialLR(
        optimizer, [lr.ChainedScheduler([lr.StepLR(optimizer, 4), lr.ExponentialLR(optimizer, 0.9)]),
                    lr.ConstantLR(optimizer)], milestones=[30],
    ),
    "chained": lambda optimizer: lr.ChainedScheduler([lr.ConstantLR(optimizer), lr.ExponentialLR(optimizer, 0.9)]),
    "plateau": lambda optimizer: lr.ReduceLROnPlateau(optimizer, min_lr=1e-6),
    "cyclic": lambda optimizer: lr.CyclicLR(optimizer, 1e-3, 1e-2, cycle_momentum=True),
    "one cycle": lambda optimizer: lr.OneCycleLR(optimizer, 1e-2, total_steps=60),
}  # fmt: skip


class Stepped:
    """A torch scheduler where the rig expects one that sets rates before a step."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def apply(self, optimizer: Optimizer) -> None:
        if isinstance(self.inner, lr.ReduceLROnPlateau):
            self.inner.step(1.0)
        elif self.inner is not None:
            self.inner.step()


def under(run: Any, make: Callable[[Optimizer], Any]) -> Any:
    """The rig's run under a scheduler of torch's; a step sets the rate of the next one."""
    scheduler = make(run.arm.optimizer)
    run.arm.scheduler = scheduler
    step = run._one_step

    def stepped() -> None:
        run.executor.arm.scheduler = Stepped(run.arm.scheduler)
        try:
            step()
        finally:
            run.executor.arm.scheduler = run.arm.scheduler.inner

    run._one_step = stepped
    return run


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("ends", ["folded", "detached"])
@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_has_one_entry_for_each_group_before_with_and_after_a_seed(rig, name, ends):
    run = under(rig("mlp", optimizer="sgd"), SCHEDULERS[name])
    run.train(2)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    run.train(6)
    assert {len(values) for values in wiring._group_lists(run.arm.scheduler)} <= {2}
    graft = run.arm.grafts[0]
    if ends == "folded":
        fold(run.arm, graft, run.step, run.outputs, run.reached)
    else:
        run.arm.detach(graft)
    assert {len(values) for values in wiring._group_lists(run.arm.scheduler)} <= {1}
    run.train(3)
    assert len(run.arm.optimizer.param_groups) == 1


@pytest.mark.parametrize("name", [*SCHEDULERS, "warm-up"])
@pytest.mark.filterwarnings("ignore")
def test_a_seed_that_enters_while_the_rate_changes_learns_at_its_neighbours_rate(rig, name):
    """Torch's LinearLR multiplies what it finds in a group, so one that enters at the full rate would end far above."""
    warmup = {"warm-up": lambda optimizer: lr.LinearLR(optimizer, 0.1, total_iters=8)}
    run, bare = (under(rig("mlp", optimizer="sgd"), (SCHEDULERS | warmup)[name]) for _ in range(2))
    run.train(3)
    bare.train(3)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    for _ in range(12):
        run.train(1)
        bare.train(1)
        host, seed = run.arm.optimizer.param_groups
        assert host["lr"] == bare.arm.optimizer.param_groups[0]["lr"]
        assert seed["lr"] == host["lr"] * run.arm.grafts[0].blend.rate_factor_at(run.step - 1)


@pytest.mark.parametrize("flags", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_a_seed_is_stepped_by_the_kernels_that_the_host_is_stepped_by(rig, flags):
    run = rig("mlp")
    run.arm.optimizer = torch.optim.AdamW(run.arm.model.parameters(), lr=0.01, **flags)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    by_group = group_by_host(run.arm.optimizer, run.arm.grafts[0].module, run.arm.model)
    found = [*run.arm.optimizer.param_groups, *optimizer_like(run.arm.optimizer, by_group).param_groups]
    assert len(found) == 3
    assert all(group[name] == value for group in found for name, value in flags.items())
    run.train(6)


@pytest.mark.filterwarnings("ignore")
def test_a_factor_on_the_rate_reaches_every_part_of_a_chain_and_no_decay(rig):
    run = rig("mlp", optimizer="sgd")
    run.arm.scheduler = scheduler = warm_then_cosine(run.arm.optimizer)
    before = [list(part.base_lrs) for part in scheduler._schedulers]
    run.do(run.directive("ADJUST_OPTIMIZER", optimizer=OptimizerAdjustment(learning_rate_factor=0.5)))
    assert [part.base_lrs for part in scheduler._schedulers] == [[rate / 2 for rate in rates] for rates in before]
    run.arm.scheduler = plateau = lr.ReduceLROnPlateau(run.arm.optimizer, factor=0.1)
    run.do(run.directive("ADJUST_OPTIMIZER", optimizer=OptimizerAdjustment(learning_rate_factor=0.5)))
    assert plateau.factor == 0.1


class StrictMuon(Optimizer):
    """Two groups, as users write it: matrices by their sign, everything else plainly; a vector as a matrix fails."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            assert set(group) == {"params", "lr", "use_muon"}
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        continue
                    if group["use_muon"] and parameter.dim() != 2:
                        raise RuntimeError(f"expected a matrix, got {list(parameter.shape)}")
                    update = parameter.grad.sign() if group["use_muon"] else parameter.grad
                    parameter.sub_(update, alpha=group["lr"])


def matrices(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.dim() == 2]


def others(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.dim() != 2]


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "matrices alone": lambda model: torch.optim.Muon(matrices(model), lr=0.01),
    "both": lambda model: StrictMuon(
        [{"params": matrices(model), "lr": 0.001, "use_muon": True},
         {"params": others(model), "lr": 0.01, "use_muon": False}]
    ),
}  # fmt: skip
SEEDS = [
    ("span.linear", "span_linear:fc1-fc2", {"width": 4}),
    ("residual.linear", "residual_linear:act1-act1", {"width": 4}),
    ("gate.channel", "residual_linear:act1-act1", {}),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("blueprint", "slot_id", "parameters"), SEEDS[:2])
@pytest.mark.parametrize("incubates", [False, True])
def test_an_optimiser_for_matrices_gets_no_bias(rig, zero_output, optimizer, blueprint, slot_id, parameters, incubates):
    run = rig("mlp")
    run.arm.optimizer = OPTIMIZERS[optimizer](run.arm.model)
    run.arm.scheduler.apply = lambda optimizer: None
    run.train(2)
    run.do(run.build(blueprint, slot_id, **parameters))
    if incubates:
        run.do(run.directive("INCUBATE", duration_steps=4))
        run.train(5)
        run.do()
    run.do(run.directive("ATTACH", slot_id=slot_id, blend=zero_output))
    module = run.arm.grafts[0].module
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    run.train(6)
    moved = {name for name, parameter in module.named_parameters() if not torch.equal(before[name], parameter)}
    vectors = {name for name, parameter in module.named_parameters() if parameter.dim() != 2}
    assert vectors
    assert moved == (set(before) - vectors if optimizer == "matrices alone" else set(before))
    members = {id(member): group for group in run.arm.optimizer.param_groups for member in group["params"]}
    for parameter in module.parameters():
        assert (id(parameter) in members) is parameter.requires_grad
        if parameter.requires_grad and optimizer == "both":
            assert members[id(parameter)]["use_muon"] is (parameter.dim() == 2)


def test_a_seed_incubates_in_the_groups_that_it_will_stand_in(rig, zero_output):
    run = rig("mlp")
    model = run.arm.model
    near, far = [*model.fc1.parameters(), *model.fc2.parameters()], list(model.fc3.parameters())
    run.arm.optimizer = torch.optim.Adam(
        [{"params": far, "betas": (0.5, 0.999)}, {"params": near, "betas": (0.9, 0.95)}], lr=0.01
    )
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4))
    run.do(run.directive("INCUBATE", duration_steps=4))
    incubating = run.executor._state.lives["s1"].incubation.optimizer
    assert [group["betas"] for group in incubating.param_groups] == [(0.9, 0.95)]
    run.train(5)
    run.do()
    run.do(run.directive("ATTACH", slot_id="span_linear:fc1-fc2", blend=zero_output))
    assert [group["betas"] for group in run.arm.optimizer.param_groups[2:]] == [(0.9, 0.95)]


def test_a_vector_beside_nothing_alike_learns_where_nothing_decays():
    host, seed = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
    groups = [{"params": [host.weight], "weight_decay": 0.1}, {"params": [], "weight_decay": 0.0}]
    assert group_by_host(torch.optim.AdamW(groups), seed) == {0: [seed.weight], 1: [seed.bias]}


def test_a_seed_of_which_nothing_could_learn_is_still_attached_and_cannot_incubate(rig):
    run = rig("mlp")
    run.arm.optimizer = OPTIMIZERS["matrices alone"](run.arm.model)
    run.do(run.build("gate.channel", "residual_linear:act1-act1"))
    assert "nothing to train" in run.failure(run.directive("INCUBATE", duration_steps=4))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_host_without_any_bias_does_not_keep_a_seed_from_learning_its_own(rig_of, toy_task, optimizer):
    host = nn.Sequential()
    for number, (fan_in, fan_out) in enumerate(((12, 6), (6, 5)), start=1):
        host.add_module(f"fc{number}", nn.Linear(fan_in, fan_out, bias=False))
        host.add_module(f"act{number}", nn.ReLU() if number == 1 else nn.Identity())
    run = rig_of(host, toy_task, optimizer=optimizer)
    run.graft("residual.linear", "residual_linear:act1-act1", width=4, twin=False)
    assert all(parameter.requires_grad for parameter in run.arm.grafts[0].module.parameters())


def test_a_seed_beside_layers_that_dont_train_learns_as_the_other_layers_do(rig):
    run = rig("mlp")
    model = run.arm.model
    run.arm.optimizer = torch.optim.Adam(model.fc3.parameters(), lr=0.01)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    assert all(parameter.requires_grad for parameter in run.arm.grafts[0].module.parameters())


def test_a_new_optimiser_has_the_settings_of_the_groups_that_it_stands_beside():
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(
        [{"params": [host.weight], "weight_decay": 0.1}, {"params": [host.bias], "weight_decay": 0.0, "lr": 0.5}],
        betas=(0.5, 0.7),
    )
    by_group = group_by_host(optimizer, seed)
    assert by_group == {0: [seed.weight], 1: [seed.bias]}
    lr.ConstantLR(optimizer)
    like = optimizer_like(optimizer, by_group)
    assert not any("initial_lr" in group for group in like.param_groups)
    assert [(group["weight_decay"], group["lr"], group["betas"]) for group in like.param_groups] == [
        (0.1, 1e-3 / 3, (0.5, 0.7)),
        (0.0, 0.5 / 3, (0.5, 0.7)),
    ]


def test_state_that_an_optimiser_makes_at_its_start_is_made_for_a_seed_too(rig):
    run = rig("mlp", optimizer="adagrad")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    seed = run.arm.grafts[0].module
    assert all(set(run.arm.optimizer.state[parameter]) == {"step", "sum"} for parameter in seed.parameters())
