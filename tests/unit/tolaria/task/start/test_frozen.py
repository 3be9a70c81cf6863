"""Frozen parts: every bit stays, everything else learns, and what names nothing is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import Observers
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact, germination, keep


def config(**fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"samples": 600, "hidden": (6, 6), "epochs": 1, "grow": "never"}
    return TrainConfig(**settings | fields)


def trained(run: Prepared) -> dict[str, Any]:
    return Trainer(run, lambda opening: NullControl(), Observers()).train()


def grown(**fields: Any) -> Prepared:
    """A run that keeps a span of the first hidden layer."""
    script = {3: germination("s1", "span_linear:fc1-fc2"), 18: keep("s1")}
    settings: dict[str, Any] = {"grow": "auto", "min_samples": 50, "evaluate_every_steps": 3, "epochs": 5}
    run = prepare(config(**settings | fields), fetch_artifact)
    Trainer(run, lambda opening: ScriptedControl(script), Observers()).train()
    return run


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def handed_over_in_eval_mode(shape: tuple[int, ...], outputs: int) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
    return network.eval()


@pytest.mark.parametrize(
    ("rule", "learning"),
    [
        ({"freeze": ("fc1", "*.bias")}, {"fc2.weight", "fc3.weight"}),
        ({"train_only": ("fc3",)}, {"fc3.weight", "fc3.bias"}),
        ({"train_only": ("fc?.bias",)}, {"fc1.bias", "fc2.bias", "fc3.bias"}),
    ],
)
def test_what_is_frozen_keeps_every_bit_and_everything_else_learns(rule: dict[str, Any], learning: set[str]) -> None:
    run = prepare(config(**rule))
    before = copied(run.executor.arm.model)
    trained(run)
    after = run.executor.arm.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == learning
    held = {id(part) for group in run.executor.arm.optimizer.param_groups for part in group["params"]}
    assert held == {id(part) for name, part in run.executor.arm.model.named_parameters() if name in learning}


def test_a_frozen_batch_norm_gathers_no_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, hidden, norm in (("cnn", (3, 4), "bn1"), (f"{__name__}:handed_over_in_eval_mode", (), "2")):
        run = prepare(config(model=model, hidden=hidden, freeze=(norm,)))
        before = copied(run.executor.arm.model.get_submodule(norm))
        trained(run)
        after = run.executor.arm.model.get_submodule(norm).state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
    other = run.executor.arm.model.get_submodule("1")
    assert other.training


def test_spans_beside_frozen_layers_and_norms_stay_modules() -> None:
    run = prepare(config(model="cnn", hidden=(3, 4, 5), grow="auto", min_samples=50, freeze=("bn1",)))
    obstacles = {slot.slot_id: slot.fold_obstacle for slot in run.manifest().slots if slot.slot_id.startswith("span")}
    assert obstacles["span_conv:conv1-conv2"] == "bn1 is frozen"
    assert obstacles["span_conv:conv2-conv3"] == ""


def test_a_kept_seed_beside_a_frozen_layer_learns_and_the_layer_keeps_every_bit() -> None:
    run = grown(freeze=("fc1",))
    model, seed = run.executor.arm.model, run.executor.arm.grafts[0].module
    start = build_model(config(), (64,), 10).fc1
    assert torch.equal(model.fc1.weight, start.weight)
    assert model.fc1.weight.shape == (6, 64)
    assert float(seed.write.weight.detach().abs().max()) > 0
    # Without the rule it is part of the layer.
    assert grown().executor.arm.model.fc1.weight.shape == (14, 64)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"freeze": ("fc9",)}, "names no parameter of the model; did you mean fc3"),
        ({"train_only": ("head",)}, "names no parameter of the model; its parameters are fc1.weight, fc1.bias"),
        ({"freeze": ("fc*",)}, "leaves no parameter that learns"),
        ({"freeze": ("fc1",), "train_only": ("fc2",)}, "give one"),
    ],
)
def test_a_rule_that_can_t_be_meant_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        prepare(config(**rule))


def test_what_the_model_has_frozen_stays_so_under_a_rule() -> None:
    model = build_model(config(model=f"{__name__}:half_frozen", hidden=(), train_only=("0", "2")), (64,), 10)
    assert [name for name, part in model.named_parameters() if part.requires_grad] == ["2.weight", "2.bias"]


def half_frozen(shape: tuple[int, ...], outputs: int) -> nn.Module:
    network = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, outputs))
    network[0].requires_grad_(False)
    return network
