"""Transform, normalisation and augmentation: fitted on the training set, alike in all sets, keyed where random."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import export, load_network
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.data.registry import load_splits
from esper.tolaria.task.inputs.normalize import normalized
from esper.tolaria.task.prepare import prepare

PLAIN = RunOptions(tensorboard=False)
RESUME = RunOptions(resume=True, tensorboard=False)
HERE = __name__


def config(**fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"samples": 600, "hidden": (6, 6), "epochs": 2, "grow": "never"}
    return TrainConfig(evaluate_every_steps=3, **settings | fields)


def inputs_of(fields: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    splits = prepare(config(**fields)).splits
    return splits.train.inputs, splits.judge.inputs, splits.test.inputs


class Image:
    """Two channels of very different scale, and one that is always 3."""

    def splits(self, seed: int) -> Splits:
        draw = torch.Generator().manual_seed(seed)

        def made(rows: int, shift: float) -> Split:
            values = torch.randn(rows, 3, 2, 2, generator=draw) * torch.tensor([5.0, 0.1, 0.0])[:, None, None]
            values = values + torch.tensor([100.0, shift, 3.0])[:, None, None]
            return Split(values, torch.arange(rows) % 2)

        task = TaskType.TASK_TYPE_CLASSIFICATION
        return Splits(train=made(400, 0.0), judge=made(80, 9.0), test=made(80, 9.0), task=task, outputs=2)


def test_channels_are_normalised_by_the_training_set_alone() -> None:
    settings = config(data=f"{HERE}:Image", samples=None, normalize=True)
    given = load_splits(settings)
    splits, scaling = normalized(settings, given)
    train = splits.train.inputs
    assert scaling is not None
    assert torch.allclose(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(train.std((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4)
    mean, deviation = (torch.tensor(part).view(3, 1, 1) for part in (scaling.mean, scaling.deviation))
    assert torch.equal(splits.judge.inputs, (given.judge.inputs - mean) / deviation)
    # The judging set is shifted, and stays so.
    assert float(splits.judge.inputs[:, 1].mean()) > 50


class Centre:
    """Fitted: takes the training mean away."""

    def fit(self, inputs: Tensor) -> Any:
        mean = inputs.mean(0)
        inputs.zero_()  # what is fitted must not reach the data
        return lambda values: values - mean


def halves(inputs: Tensor) -> Tensor:
    return inputs.flatten(1)[:, ::2].mul_(0.5)


def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def test_a_transform_is_fitted_on_the_training_set_and_applied_to_all() -> None:
    plain = inputs_of({})
    centred = inputs_of({"transform": f"{HERE}:Centre"})
    for before, after in zip(plain, centred, strict=True):
        assert torch.allclose(after, before - plain[0].mean(0), atol=1e-6)
    halved = inputs_of({"transform": f"{HERE}:halves"})
    assert [tuple(part.shape[1:]) for part in halved] == [(32,)] * 3
    assert torch.allclose(halved[1], plain[1][:, ::2] * 0.5)


def test_augmentation_changes_training_batches_alone_each_by_its_step() -> None:
    plain, noised = prepare(config()), prepare(config(augment=f"{HERE}:noisy"))
    for _, split in noised.splits.named():
        assert any(torch.equal(split.inputs, other.inputs) for _, other in plain.splits.named())
    first, again, second = (noised.loader.batch(step)[0] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert 0.05 < float((first - plain.loader.batch(0)[0]).std()) < 0.2
    assert not torch.equal(second - plain.loader.batch(1)[0], first - plain.loader.batch(0)[0])


class Stop(Observer):
    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step == 6:
            signal.raise_signal(signal.SIGTERM)


def test_an_interrupted_run_with_all_three_resumes_to_the_same_weights(tmp_path: Path) -> None:
    functions = {"transform": f"{HERE}:Centre", "augment": f"{HERE}:noisy"}
    settings = config(run_dir=tmp_path / "run", normalize=True, **functions)
    whole = grow(replace(settings, run_dir=tmp_path / "whole"), PLAIN, (), Interruption())
    grow(settings, PLAIN, [Stop()], Interruption())
    resumed = grow(settings, RESUME, (), Interruption())
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert whole["reproducible"]
    bare = grow(config(run_dir=tmp_path / "bare"), PLAIN, (), Interruption())
    assert bare["weights_digest"] != whole["weights_digest"]


def test_an_exported_network_takes_inputs_as_they_came_or_says_that_it_doesn_t(tmp_path: Path) -> None:
    settings = config(run_dir=tmp_path / "run", normalize=True, model="mlp")
    grow(settings, PLAIN, (), Interruption())
    network, run = load_network(settings.run_dir), prepare(settings)
    raw, seen = load_splits(settings).test.inputs.reshape(-1, 64), run.splits.test.inputs
    with torch.no_grad():
        assert torch.equal(network.outputs(raw), network.arm.model.eval()(seen))
    written = export(settings.run_dir, tmp_path / "w.safetensors")
    assert "normalise its inputs first" in written.line
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert '"deviation": [' in file.metadata()["network"]


@pytest.mark.slow  # torch.export, and a fresh process that runs its program
def test_an_exported_program_normalises_by_itself(tmp_path: Path) -> None:
    settings = config(run_dir=tmp_path / "run", normalize=True)
    grow(settings, PLAIN, (), Interruption())
    export(settings.run_dir, tmp_path / "n.pt2")
    raw = load_splits(settings).test.inputs.reshape(-1, 64)
    program = torch.export.load(tmp_path / "n.pt2").module()
    assert torch.allclose(program(raw), load_network(settings.run_dir).outputs(raw), atol=1e-5)


def other_size(inputs: Tensor) -> Tensor:
    return inputs[:3]


def fails(inputs: Tensor) -> Tensor:
    return inputs @ torch.ones(3, 3)


def no_numbers(inputs: Tensor) -> Tensor:
    return inputs / 0.0


def undrawn(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + torch.randn(inputs.shape)


def wider(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cat([inputs, inputs], 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"transform": f"{HERE}:missing"}, "can't be imported"),
        ({"transform": f"{HERE}:HERE"}, "gives str, expected a function of inputs"),
        ({"transform": f"{HERE}:other_size"}, r"gives shape \(3, 1, 8, 8\) for"),
        ({"transform": f"{HERE}:fails"}, "can't take inputs of shape"),
        ({"transform": f"{HERE}:no_numbers"}, "holds NaN or infinite"),
        ({"augment": f"{HERE}:halves"}, r"takes \(inputs: .*expected \(inputs, generator\) -> inputs"),
        ({"augment": f"{HERE}:undrawn"}, "draw from the generator alone"),
        ({"augment": f"{HERE}:wider"}, "expected the same form"),
        ({"augment": f"{HERE}:HERE"}, "is str, expected a function"),
        ({"normalize": True, "data": "pytext", "model": "transformer", "hidden": ()}, "only amounts have a scale"),
    ],
)
def test_what_can_t_be_used_is_refused_in_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        prepare(config(**fields))
