"""Optimisers and schedules by name: without growth a run is the bare loop, bit for bit; groups and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

from esper.core.errors import ConfigError
from esper.tolaria.config import OPTIMIZERS, REFUSED_OPTIMIZERS, TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import Observers
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.optimizers.muon import MuonAdamW
from esper.tolaria.task.optimizers.optimizers import made_by, matrices, optimizer_doubts
from esper.tolaria.task.prepare import prepare
from esper.tolaria.task.randomness import seed_all
from esper.tolaria.trainer import Trainer
from esper.urza.cost import OPTIMIZER_STATES
from tests.unit.tolaria.scripted_control import ScriptedControl, directive, fetch_artifact, germination

STEPS = 20
CONFIG = TrainConfig(
    samples=300,
    hidden=(5, 5),
    batch_size=32,
    steps=STEPS,
    warmup_steps=2,
    lr=0.01,
    min_samples=50,
    grow="never",
    checkpoint_every_epochs=0,
)
Members = Sequence[nn.Parameter]
Made = Callable[[nn.Module], list[optim.Optimizer]]


def plain(make: Callable[[Members], optim.Optimizer]) -> Made:
    return lambda model: [make(list(model.parameters()))]


def halves(model: nn.Module) -> list[optim.Optimizer]:
    """Muon and AdamW as torch's own documentation uses them."""
    hidden = [model.fc1.weight, model.fc2.weight]
    rest = [part for part in model.parameters() if not any(part is other for other in hidden)]
    muon = optim.Muon(hidden, 0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    return [muon, optim.AdamW(rest, 0.01, betas=(0.9, 0.95), weight_decay=0.1)]


def decay_in_matrices(model: nn.Module) -> list[optim.Optimizer]:
    weights = [part for part in model.parameters() if part.dim() == 2]
    biases = [part for part in model.parameters() if part.dim() == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    return [optim.AdamW(groups, 0.01, betas=(0.9, 0.95), fused=True)]


LOOPS: dict[str, tuple[dict[str, Any], Made]] = {
    "adam": ({}, plain(lambda p: optim.Adam(p, 0.01, fused=True))),
    "adamw": (
        {"beta2": 0.95, "weight_decay": 0.1},
        plain(lambda p: optim.AdamW(p, 0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True)),
    ),
    "sgd": ({}, plain(lambda p: optim.SGD(p, 0.01, momentum=0.9, fused=True))),
    "sgd nesterov": (
        {"nesterov": True, "momentum": 0.8},
        plain(lambda p: optim.SGD(p, 0.01, momentum=0.8, nesterov=True, fused=True)),
    ),
    "rmsprop": ({}, plain(lambda p: optim.RMSprop(p, 0.01))),
    "rmsprop with momentum": (
        {"momentum": 0.5, "beta2": 0.9},
        plain(lambda p: optim.RMSprop(p, 0.01, alpha=0.9, momentum=0.5)),
    ),
    "adagrad": ({"weight_decay": 0.01}, plain(lambda p: optim.Adagrad(p, 0.01, weight_decay=0.01, fused=True))),
    "adadelta": ({"beta2": 0.8}, plain(lambda p: optim.Adadelta(p, 0.01, rho=0.8))),
    "adafactor": ({}, plain(lambda p: optim.Adafactor(p, 0.01))),
    "adamax": ({"momentum": 0.8}, plain(lambda p: optim.Adamax(p, 0.01, betas=(0.8, 0.999)))),
    "nadam": ({"beta2": 0.99}, plain(lambda p: optim.NAdam(p, 0.01, betas=(0.9, 0.99)))),
    "radam": ({}, plain(lambda p: optim.RAdam(p, 0.01))),
    "muon": ({"momentum": 0.9, "beta2": 0.95, "weight_decay": 0.1}, halves),
    "adamw matrices": ({"beta2": 0.95, "weight_decay": 0.1, "decay_rule": "matrices"}, decay_in_matrices),
}
RATES: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "wsd": ({}, lambda step: min(1.0, (step + 1) / 3) * min(1.0, (STEPS - step) / 6)),
    "wsd without warm-up": ({"warmup_steps": 0}, lambda step: min(1.0, (STEPS - step) / 6)),
    "wsd, half of it": ({"decay_fraction": 0.5}, lambda step: min(1.0, (step + 1) / 3) * min(1.0, (STEPS - step) / 10)),
    "cosine": (
        {"schedule": "cosine"},
        lambda step: min(1.0, (step + 1) / 3) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * max(0, step - 2) / 18))),
    ),
    "cosine without warm-up": (
        {"schedule": "cosine", "warmup_steps": 0},
        lambda step: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / STEPS)),
    ),
    "constant": ({"schedule": "constant"}, lambda step: min(1.0, (step + 1) / 3)),
    "own": (
        {"schedule": "tests.unit.tolaria.task.optimizers.test_optimizers:square_root", "warmup_steps": 10},
        lambda step: math.sqrt((STEPS - step) / STEPS),
    ),
    "constant without warm-up": ({"schedule": "constant", "warmup_steps": 0}, lambda step: 1.0),
}


def trained(config: TrainConfig) -> nn.Module:
    run = prepare(config)
    Trainer(run, lambda opening: NullControl(), Observers()).train(resume=False)
    return run.executor.arm.model


def bare_loop(config: TrainConfig, make: Made, share: Callable[[int], float]) -> nn.Module:
    """What a user would write, over the run's data and first weights."""
    loader = prepare(config).loader
    model = build_model(config, (64,), 10)
    optimizers = make(model)
    for step in range(STEPS):
        inputs, targets = loader.batch(step)
        seed_all(torch.device("cpu"), config.seed, "step", step)
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * share(step)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
    return model


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    others = right.state_dict()
    return all(torch.equal(value, others[name]) for name, value in left.state_dict().items())


def test_every_optimizer_is_compared() -> None:
    assert {name.split()[0] for name in LOOPS} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", LOOPS)
def test_without_growth_a_run_is_the_bare_loop_under_every_optimizer(name: str) -> None:
    settings, make = LOOPS[name]
    config = replace(CONFIG, optimizer=name.split()[0], **settings)
    assert same_weights(trained(config), bare_loop(config, make, RATES["wsd"][1]))


@pytest.mark.parametrize("name", RATES)
def test_without_growth_a_run_is_the_bare_loop_under_every_schedule(name: str) -> None:
    settings, share = RATES[name]
    config = replace(CONFIG, **settings)
    assert same_weights(trained(config), bare_loop(config, LOOPS["adam"][1], share))


class Decoder(nn.Module):
    """A little of everything that a rule has to tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.norm = nn.LayerNorm([3, 4])
        self.conv = nn.Conv1d(3, 3, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.tokens.weight


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_budget_of_memory_knows_how_much_an_optimizer_remembers(name: str) -> None:
    """By the settings that a run may have; its momentum is counted where there is one. Counts are no values."""
    momentum = {"momentum": 0.5} if "momentum" in OPTIMIZERS[name] else {}
    config = replace(CONFIG, optimizer=name, hidden=(32, 32), **momentum)
    run = prepare(config)
    Trainer(run, lambda opening: NullControl(), Observers(), should_stop=lambda: True).train()
    arm = run.executor.arm
    values = sum(
        value.numel()
        for state in arm.optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.dim()
    )
    known = OPTIMIZER_STATES[type(arm.optimizer).__name__]
    assert values / arm.parameter_count() <= known
    if name not in ("adafactor", "muon"):
        assert values / arm.parameter_count() == known


def test_a_span_that_folds_under_muon_goes_on_as_the_wider_network_would() -> None:
    """Its step makes a matrix orthogonal as a whole, so none of the unfolded run's can be told: momentum can."""
    config = replace(CONFIG, optimizer="muon", grow="auto", steps=2 * STEPS, evaluate_every_steps=4)
    run = prepare(config, fetch_artifact)
    script = {4: germination("s1", "span_linear:fc1-fc2")}
    boundaries = count(1)
    stop_there = Trainer(
        run, lambda opening: ScriptedControl(script), Observers(), should_stop=lambda: next(boundaries) == 6
    )
    stop_there.train()
    executor, step = run.executor, 24
    arm, (graft,) = executor.arm, executor.arm.grafts
    optimizer, layer = arm.optimizer, arm.model.fc1
    rows = [optimizer.state[part]["momentum_buffer"] for part in (layer.weight, graft.module.read.weight)]
    columns = [optimizer.state[part]["momentum_buffer"] for part in (arm.model.fc2.weight, graft.module.write.weight)]
    executor.execute([directive("s1", "FOLD")], step)
    assert layer.weight.shape == (13, 64)
    assert torch.equal(optimizer.state[layer.weight]["momentum_buffer"], torch.cat(rows))
    assert torch.equal(optimizer.state[arm.model.fc2.weight]["momentum_buffer"], torch.cat(columns, 1))
    alone = MuonAdamW([{"params": [nn.Parameter(layer.weight.detach().clone())], "momentum": 0.95}], 0.01)
    twin = alone.param_groups[0]["params"][0]
    alone.state[twin]["momentum_buffer"] = torch.cat(rows)
    gradient = torch.linspace(-1, 1, layer.weight.numel()).view_as(layer.weight)
    arm.optimizer.zero_grad()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    layer.weight.grad, twin.grad = gradient, gradient.clone()
    optimizer.step()
    alone.step()
    assert torch.equal(layer.weight, twin)


def test_matrices_are_neither_norms_nor_biases_nor_embeddings() -> None:
    model = Decoder()
    names = {part: name for name, part in model.named_parameters()}
    expected = ["conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "fc.weight"]
    assert [names[part] for part in matrices(model)] == expected


def test_weight_decay_holds_for_all_or_for_matrices_alone() -> None:
    every = prepare(replace(CONFIG, weight_decay=0.1)).executor.arm.optimizer
    assert [(len(group["params"]), group["weight_decay"]) for group in every.param_groups] == [(6, 0.1)]
    ruled = prepare(replace(CONFIG, weight_decay=0.1, decay_rule="matrices")).executor.arm.optimizer
    assert [(len(group["params"]), group["weight_decay"]) for group in ruled.param_groups] == [(3, 0.1), (3, 0.0)]


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, [(["momentum"], 2, 0.1), (["betas"], 4, 0.1)]),
        ({"decay_rule": "matrices"}, [(["momentum"], 2, 0.1), (["betas"], 1, 0.1), (["betas"], 3, 0.0)]),
    ],
)
def test_muon_takes_hidden_matrices_and_adamw_the_rest(settings: dict[str, Any], sizes: list[Any]) -> None:
    optimizer = prepare(replace(CONFIG, optimizer="muon", weight_decay=0.1, **settings)).executor.arm.optimizer
    found = [
        ([key for key in ("momentum", "betas") if key in group], len(group["params"]), group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert found == sizes


def test_muon_in_a_network_of_one_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no matrix for it"):
        prepare(
            replace(
                CONFIG,
                optimizer="muon",
                model="tests.unit.tolaria.task.optimizers.test_optimizers:single_layer",
                hidden=(),
            )
        )


def single_layer(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        *(({"optimizer": name}, reason) for name, reason in REFUSED_OPTIMIZERS.items()),
        ({"optimizer": "adm"}, "or give module:function"),
        ({"optimizer": "sgd", "beta2": 0.95}, "sgd has no such setting"),
        ({"optimizer": "adagrad", "momentum": 0.5}, "adagrad has no such setting"),
        ({"optimizer": "adam", "nesterov": True}, "adam has no such setting"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "needs a momentum above 0"),
        ({"optimizer": "mine:make", "weight_decay": 0.1}, "mine:make decides that itself"),
        ({"optimizer": "mine:make", "decay_rule": "matrices"}, "mine:make decides that itself"),
        ({"beta2": 1.0}, "must lie between 0 and 0.999999"),
        ({"decay_rule": "some"}, "choose one of all, matrices"),
        ({"decay_rule": "matrices"}, "there is no weight decay to hold for them"),
        ({"schedule": "cosin"}, "choose one of wsd, cosine, constant"),
        ({"schedule": "constant", "decay_fraction": 0.2}, "a constant schedule has none"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


class Closing(optim.SGD):
    """Wants a closure, as second-order methods do."""

    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("no function", "expected a function"),
        (lambda: None, "expected (parameters) -> torch.optim.Optimizer"),
        (lambda parameters: parameters, "expected a torch.optim.Optimizer, got list"),
        (lambda parameters: optim.LBFGS(parameters), "LBFGS calls for the loss several times"),
        (lambda parameters: Closing(parameters, 0.1), "Closing.step needs a closure"),
        (lambda parameters: optim.SGD(nn.Linear(2, 3).parameters(), 0.1), "holds a parameter [3, 2] that isn't among"),
    ],
)
def test_what_a_function_gives_must_be_of_use(factory: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made_by(factory, nn.Linear(2, 2), "mine:make")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def square_root(step: int) -> float:
    return math.sqrt((STEPS - step) / STEPS)


def two_rates(named_parameters: Sequence[tuple[str, nn.Parameter]]) -> optim.Optimizer:
    weights = [entry for entry in named_parameters if entry[0].endswith("weight")]
    biases = [entry for entry in named_parameters if entry[0].endswith("bias")]
    return optim.NAdam([{"params": weights}, {"params": biases, "lr": 0.002}], 0.01)


def test_a_function_gets_names_if_it_asks_for_them_and_its_groups_keep_their_rates() -> None:
    config = replace(
        CONFIG, optimizer="tests.unit.tolaria.task.optimizers.test_optimizers:two_rates", schedule="cosine"
    )
    arm = prepare(config).executor.arm
    assert not any("param_names" in group for group in arm.optimizer.param_groups)
    assert arm.scheduler.apply(arm.optimizer, 2) == 0.01
    assert [group["lr"] for group in arm.optimizer.param_groups] == [0.01, 0.002]
    arm.scheduler.apply(arm.optimizer, 11)
    first, second = (group["lr"] for group in arm.optimizer.param_groups)
    assert second == pytest.approx(first / 5)
    assert first < 0.006


def test_what_a_run_must_know_of_an_optimizer_is_told_before_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    partial = optim.Adafactor(model[0].parameters())
    told = list(optimizer_doubts(partial, model, grows_spans=True))
    assert "leaves 1.weight and 1 other parameters out: they don't learn" in told[0]
    assert "stays a module beside its layers: optimiser Adafactor" in told[1]
    assert list(optimizer_doubts(optim.RMSprop(model.parameters()), model, grows_spans=True)) == []
