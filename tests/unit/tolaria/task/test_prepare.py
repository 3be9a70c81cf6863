"""From settings to a run: what can't be used is refused in one line before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.core.errors import ConfigError, DependencyViolationError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.posed import named_by_settings
from esper.tolaria.task.prepare import no_artifacts, prepare
from tests.unit.tolaria.task import foreign_hosts

CONFIG = TrainConfig(samples=600, hidden=(5, 5), min_samples=50)


def test_the_standard_run_has_at_least_two_thousand_steps() -> None:
    run = prepare(TrainConfig(hidden=(6, 6)))
    assert run.total_steps == 120 * 18
    assert run.growth_end_step == pytest.approx(0.7 * run.total_steps, abs=1)
    assert run.host_parameters == 64 * 6 + 6 + 6 * 6 + 6 + 6 * 10 + 10


def test_the_manifest_names_the_model_and_its_slots() -> None:
    manifest = prepare(CONFIG).manifest()
    assert manifest.model == "mlp"
    assert "span_linear:fc1-fc2" in [slot.slot_id for slot in manifest.slots]


def test_the_steps_of_a_run_are_those_given_or_those_of_its_epochs() -> None:
    assert prepare(replace(CONFIG, steps=77)).total_steps == 77
    assert prepare(replace(CONFIG, epochs=3)).total_steps == 3 * prepare(CONFIG).loader.steps_per_epoch


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_optimizer_is_the_one_asked_for(optimizer: str) -> None:
    arm = prepare(replace(CONFIG, optimizer=optimizer, momentum=0.8, weight_decay=0.01)).executor.arm
    assert type(arm.optimizer).__name__.lower() == optimizer
    group = arm.optimizer.param_groups[0]
    assert group["weight_decay"] == 0.01
    assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device": "gpu"}, "expected cpu, cuda"),
        ({"device": "meta"}, "expected cpu, cuda"),
        ({"slots": ("fc9-fc10",)}, "fc9"),
        ({"batch_size": 1000}, "larger than the training set"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, **change)).manifest()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
        prepare(replace(CONFIG, device="cuda"))


HOSTS = """
import torch
from torch import nn


def in_eval_mode(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, outputs)).eval()


def with_a_frozen_norm(shape, outputs):
    host = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
    host[2].eval()
    return host


def of_widths(shape, outputs, widths):
    return in_eval_mode(shape, outputs)


class Alone(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)


network = in_eval_mode((64,), 10)
"""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "esper_prepared_hosts.py").write_text(HOSTS)
    monkeypatch.syspath_prepend(tmp_path)
    return "esper_prepared_hosts"


def test_a_model_handed_over_in_eval_mode_trains_in_training_mode_and_is_told(hosts: str) -> None:
    run = prepare(replace(CONFIG, hidden=(), model=f"{hosts}:in_eval_mode"))
    assert all(module.training for module in run.executor.arm.model.modules())
    assert run.doubts == ["the model was handed over in eval mode; it trains in training mode"]


def test_a_part_that_is_frozen_in_eval_mode_stays_so(hosts: str) -> None:
    run = prepare(replace(CONFIG, hidden=(), model=f"{hosts}:with_a_frozen_norm"))
    assert [module.training for module in run.executor.arm.model] == [True, True, False, True, True]
    assert run.doubts == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("of_widths", r"takes \(shape, outputs, widths\), expected \(sample_shape, outputs\) -> .*'widths'"),
        ("Alone", r"takes \(\), expected \(sample_shape, outputs\)"),
        ("network", "is a network; expected a function or class"),
    ],
)
def test_a_factory_with_other_arguments_is_refused_with_those_it_takes(hosts: str, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, hidden=(), model=f"{hosts}:{name}"))
    assert "\n" not in str(caught.value)


def test_the_task_can_be_named() -> None:
    assert prepare(CONFIG).task_line == "classification, 10 classes, smallest 37"
    run = prepare(replace(CONFIG, task="regression"))
    assert run.task_line == "regression, 1 value a sample, standard deviation 2.87"
    assert run.manifest().task == TaskType.TASK_TYPE_REGRESSION
    assert run.splits.train.targets.shape == (384, 1)


def test_a_small_judging_set_is_no_matter_where_nothing_grows() -> None:
    assert prepare(replace(CONFIG, min_samples=300, grow="never")).total_steps > 0


def test_a_run_without_a_control_plane_has_no_artefacts() -> None:
    with pytest.raises(DependencyViolationError, match="no control plane"):
        no_artifacts("0" * 64)


FOREIGN = "tests.unit.tolaria.task.foreign_hosts"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
@pytest.mark.parametrize("wish", [{"isolate": True}, {"incubate": "shadow"}])
def test_isolation_that_reentrant_checkpoints_would_hide_is_refused_before_the_run(wish: dict[str, object]) -> None:
    config = TrainConfig(samples=600, min_samples=50, model=f"{FOREIGN}:reentrant")
    with pytest.raises(ConfigError, match="give them use_reentrant=False"):
        prepare(replace(config, **wish))
    prepare(replace(config, grow="never", **wish))
    prepare(config)


def test_a_host_that_cannot_be_looked_into_is_prepared_and_says_so_when_it_is_to_grow() -> None:
    run = prepare(TrainConfig(samples=600, min_samples=50, model=f"{FOREIGN}:unwilling"))
    assert run.executor.uncounted == "LookupError: I will not be watched"
    with pytest.raises(ConfigError, match="LookupError: I will not be watched; it trains with --grow never"):
        run.manifest()


def test_preparing_a_compiled_host_makes_no_graph_and_keeps_its_plain_names() -> None:
    foreign_hosts.BATCHES.clear()
    run = prepare(TrainConfig(samples=600, min_samples=50, model=f"{FOREIGN}:compiled"))
    assert [slot.slot_id for slot in run.manifest().slots] == ["span_linear:fc1-fc2", "residual_linear:act1-act1"]
    assert foreign_hosts.BATCHES == []


def test_samples_in_two_sets_are_a_doubt_of_files_and_sources_and_not_of_built_in_data(tmp_path: Path) -> None:
    rows = torch.randn(100, 4).repeat(3, 1)
    torch.save({"inputs": rows, "targets": torch.arange(300) % 2}, tmp_path / "data.pt")
    config = TrainConfig(data=str(tmp_path / "data.pt"), grow="never")
    assert any("samples also stand in train" in doubt for doubt in prepare(config).doubts)
    assert prepare(TrainConfig(data="pytext", model="transformer", samples=2000, grow="never")).doubts == []


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("model", "Sequential", "mine:net"), ("model", "Block", "Block"), ("slots", "Sequential", "Sequential")],
)
def test_a_refused_model_is_named_by_the_settings_and_its_parts_by_themselves(key: str, value: str, named: str) -> None:
    with (
        pytest.raises(ConfigError, match="is refused") as caught,
        named_by_settings(TrainConfig(model="mine:net"), torch.nn.Sequential()),
    ):
        raise ConfigError(key, value, "is refused")
    assert (caught.value.key, caught.value.value) == (key, named)
