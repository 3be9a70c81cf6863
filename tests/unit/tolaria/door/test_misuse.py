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


def test_settings_are_taken_in_the_types_of_the_launcher() -> None:
    config = config_from({"hidden": [6, 6], "slots": "span_linear:0-2", "run_dir": "runs/a", "lr": 1})
    assert (config.hidden, config.slots, config.run_dir) == ((6, 6), ("span_linear:0-2",), Path("runs/a"))
    assert isinstance(config.lr, float)


def test_arrays_are_the_tensors_that_they_hold(tmp_path: Path) -> None:
    arrays = INPUTS.numpy(), TARGETS.numpy()
    torch.manual_seed(3)
    first = train(tmp_path / "a", arrays).summary["weights_digest"]
    torch.manual_seed(3)
    assert train(tmp_path / "b").summary["weights_digest"] == first
    parts = train(tmp_path / "c", {"train": arrays, "judge": arrays}).summary
    assert parts["splits"] == {"train": 40, "judge": 40, "test": 40}


def test_one_pair_is_no_judging_set_of_a_loop(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    loader = [(INPUTS, TARGETS)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"run_dir": tmp_path / "run", "grow": "never", "steps": 1}
    growth = esper.Growth(
        model, optimizer, step=lambda net, batch: net(batch[0])[:, 0], judge=loader[0], config=settings
    )
    with pytest.raises(ConfigError, match=r"judge = .*one pair where batches are expected"), growth:
        next(iter(growth.steps(loader)))
