"""Hosts by name or entry point, in the layout that they want, with weights from the run's seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits, open_source
from esper.tolaria.task.models.models import build_host


def host(**settings: object):
    config = TrainConfig(**settings)
    return build_host(config, open_source(config).splits(config.seed))


@pytest.mark.parametrize(
    ("data", "model", "hidden", "layers"),
    [
        ("digits", "mlp", (6, 5), ["fc1", "fc2", "fc3"]),
        ("digits", "cnn", (3, 4), ["conv1", "bn1", "conv2", "bn2", "fc"]),
        ("mnist1d", "conv1d", (4, 4), ["conv1", "conv2", "fc"]),
        ("mnist1d", "mlp", (4,), ["fc1", "fc2"]),
    ],
)
def test_named_hosts_take_their_data_and_name_their_layers(data: str, model: str, hidden: tuple, layers: list) -> None:
    made = host(data=data, model=model, hidden=hidden, samples=200)
    assert [name for name, part in made.model.named_children() if any(True for _ in part.parameters())] == layers
    assert made.model(made.splits.train.inputs[:3]).shape == (3, 10)


def test_the_decoders_settings_reach_the_model() -> None:
    made = host(
        data="pytext", samples=100, context=16, model="transformer", depth=3, width=24, heads=3, positions="rotary"
    ).model
    assert [block.mlp.fc1.out_features for block in made.blocks] == [96, 96, 96]
    assert made.blocks[0].attention.head_size == 8
    assert made.positions is None


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = host(seed=1), host(seed=1), host(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.model.fc1.weight, second.model.fc1.weight)
    assert not torch.equal(first.model.fc1.weight, other.model.fc1.weight)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "mpl"}, "expected mlp"),
        ({"model": "cnn", "data": "mnist1d", "samples": 100}, "wants image samples"),
        ({"model": "transformer"}, "wants tokens samples"),
        ({"model": "json:dumps", "hidden": (4,)}, "its own widths"),
        ({"model": "json:nothing"}, "can't be imported"),
        ({"model": "math:pi"}, "expected a factory"),
        ({"model": "mlp", "depth": 3}, "depth.*is a setting of --model transformer"),
        ({"model": "math:pi", "positions": "rotary"}, "is a setting of --model transformer"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        host(**settings)


def test_an_entry_point_builds_a_host_for_the_samples_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model_module.py").write_text(
        "from torch import nn\n"
        "def factory(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], outputs))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = host(model="my_model_module:factory")
    assert made.model(made.splits.train.inputs[:2]).shape == (2, 10)


def test_a_sequence_too_short_for_the_convolutions_is_refused() -> None:
    part = Split(torch.zeros(4, 2), torch.arange(4))
    splits = Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=4)
    with pytest.raises(ConfigError, match="strided convolutions leave nothing"):
        build_host(TrainConfig(model="conv1d"), splits)
