"""What a newcomer may hand over by mistake is told in one line, and what is meant is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import esper
from esper.core.errors import ConfigError
from esper.tolaria.config import weights_of
from esper.tolaria.door.settings import config_from

INPUTS, TARGETS = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 2


def train(tmp_path: Path, data: Any = (INPUTS, TARGETS), **options: Any) -> esper.Result:
    settings = {"run_dir": str(tmp_path), "grow": "never", "steps": 2, "batch_size": 8, "checkpoint_every_epochs": 0}
    return esper.train(nn.Linear(2, 2), data, **{"config": settings, **options})


MISUSES: list[tuple[dict[str, Any], str]] = [
    ({"config": "x"}, "config = 'str': expected a mapping"),
    ({"config": {"epochs": "many"}}, "epochs = 'many': expects"),
    ({"config": {"steps": 2.5}}, "steps = 2.5: expects"),
    ({"config": {"run_dir": 3}}, "run_dir = 3: expects"),
    ({"callbacks": print}, r"callbacks = .*: expected a list"),
    ({"resume": True, "overwrite": True}, "resume = 'overwrite': exclude each other: resume=True goes on"),
    ({"data": (numpy.array([None] * 40), TARGETS)}, "data = 'tuple': its arrays can't be tensors"),
]


@pytest.mark.parametrize(("options", "message"), MISUSES)
def test_misuse_is_told_in_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_network_without_save_pretrained_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model = 'Linear': has no save_pretrained; save it as torch saves modules"):
        train(tmp_path).save_pretrained(tmp_path / "network")


def test_settings_are_taken_in_the_types_of_the_launcher() -> None:
    config = config_from({"hidden": [6, 6], "slots": "span_linear:0-2", "run_dir": "runs/a", "lr": 1})
    assert (config.hidden, config.slots, config.run_dir) == ((6, 6), ("span_linear:0-2",), Path("runs/a"))
    assert isinstance(config.lr, float)
    for weights in ([1, 0.5], (1, 0.5), torch.tensor([1, 0.5])):
        assert weights_of(config_from({"class_weights": weights}).class_weights) == (1, 0.5)


def test_arrays_are_the_tensors_that_they_hold(tmp_path: Path) -> None:
    arrays = INPUTS.numpy(), TARGETS.numpy()
    torch.manual_seed(3)
    first = train(tmp_path / "a", arrays).summary["weights_digest"]
    torch.manual_seed(3)
    assert train(tmp_path / "b").summary["weights_digest"] == first
    torch.manual_seed(3)
    lists = INPUTS.tolist(), TARGETS.tolist()
    assert train(tmp_path / "d", lists).summary["weights_digest"] == first
    parts = train(tmp_path / "c", {"train": arrays, "judge": arrays}).summary
    assert parts["splits"] == {"train": 40, "judge": 40, "test": 40}


NO_BATCHES: list[tuple[dict[str, Any], str]] = [
    ({"judge": (INPUTS, TARGETS)}, r"judge = '\(inputs, targets\)': is one batch where many are expected"),
    ({"loader": (INPUTS, TARGETS)}, r"loader = '\(inputs, targets\)': is one batch where many are expected"),
    ({"loader": {"inputs": INPUTS}}, "loader = 'dict': is one batch where many are expected"),
    ({"loader": INPUTS}, "loader = 'Tensor': is one batch where many are expected"),
    ({"judge": "x"}, "judge = 'str': expected a DataLoader"),
    ({"loader": 3}, "loader = 'int': expected a DataLoader"),
    ({"judge": ["x"]}, "judge = 'str': holds no tensor with a sample in each row"),
    ({"loader": ["x"]}, "loader = 'str': holds no tensor with a sample in each row"),
    ({"judge": []}, "judge = 'list': the judge set is empty"),
    ({"test": []}, "test = 'list': the test set is empty"),
    ({"loader": []}, "loader = 'list': gives no batch"),
]


@pytest.mark.parametrize(("given", "message"), NO_BATCHES)
def test_what_are_no_batches_of_a_loop_is_told_by_its_own_name(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    model = nn.Linear(2, 2)
    batches = [(INPUTS, TARGETS)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"run_dir": tmp_path / "run", "grow": "never", "steps": 1}
    loader = given.get("loader", batches)
    sets = {"judge": batches, **{name: part for name, part in given.items() if name != "loader"}}
    growth = esper.Growth(model, optimizer, step=lambda net, batch: net(batch[0])[:, 0], config=settings, **sets)
    with pytest.raises(ConfigError, match=message) as caught, growth:
        next(iter(growth.steps(loader)))
    assert "\n" not in str(caught.value)
