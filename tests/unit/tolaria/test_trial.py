"""A host that can't be copied or kept is refused before anything of a run is touched, and only where it matters."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.dry_run import dry_run
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trial import try_checkpoint, try_host

SCALE = nn.Parameter(torch.tensor(1.5))


class Host(nn.Module):
    """Two layers between which a span fits."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 6)
        self.fc2 = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def global_scale(shape: tuple[int, ...], outputs: int) -> nn.Module:
    host = Host(shape, outputs)
    host.scale = SCALE
    host.fc2.register_forward_hook(lambda module, arguments, output: output * SCALE)
    return host


def open_file(shape: tuple[int, ...], outputs: int) -> nn.Module:
    host = Host(shape, outputs)
    host.fc1.log = io.TextIOWrapper(io.BytesIO())
    return host


class Token:
    """No plain value."""


def unkept(shape: tuple[int, ...], outputs: int) -> nn.Module:
    host = Host(shape, outputs)
    host.tokens = []
    host.register_forward_hook(lambda module, arguments, output: module.tokens.append(Token()))
    return host


class Counted(Host):
    """The class counts for all its networks."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += self.training
        return super().forward(x) * (1 + Counted.calls / 10)


def config(tmp_path: Path, host: Any = Host, **fields: Any) -> TrainConfig:
    model = f"{__name__}:{host.__name__}"
    return TrainConfig(run_dir=tmp_path / "run", model=model, samples=600, min_samples=50, epochs=2, **fields)


REFUSED = [
    (global_scale, r"depend on scale of the original: .* in fc2, reaches it by the name SCALE"),
    (open_file, r"^model\.fc1\.log = 'TextIOWrapper': can't be copied for a twin"),
    (unkept, r"model = 'tokens\[\d+\]': changes in a step, and no checkpoint can hold it"),
]


@pytest.mark.parametrize(("host", "words"), REFUSED)
def test_such_a_host_is_refused_before_the_run_directory_is_touched(tmp_path: Path, host: Any, words: str) -> None:
    options = RunOptions(tensorboard=False)
    with pytest.raises(ConfigError, match=words):
        grow(config(tmp_path, host), options, (), Interruption())
    with pytest.raises(ConfigError, match=words):
        dry_run(config(tmp_path, host), options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", [host for host, _ in REFUSED])
def test_a_run_that_never_grows_needs_no_copy(tmp_path: Path, host: Any) -> None:
    assert grow(config(tmp_path, host, grow="never"), RunOptions(tensorboard=False), (), Interruption())["finished"]


def test_a_run_without_checkpoints_or_without_a_twin_is_asked_for_less(tmp_path: Path) -> None:
    try_host(prepare(config(tmp_path, unkept, checkpoint_every_epochs=0)))
    try_host(prepare(config(tmp_path, global_scale, judge="muted")))


def test_the_run_is_left_as_it_was(tmp_path: Path) -> None:
    run = prepare(config(tmp_path))
    digest, numbers = run.executor.arm.digest(), np.random.get_state()[1].tolist()
    generator = torch.default_generator.get_state()
    try_host(run)
    assert run.executor.arm.digest() == digest
    assert np.random.get_state()[1].tolist() == numbers
    assert torch.equal(torch.default_generator.get_state(), generator)
    assert run.executor.arm.optimizer.state == {}
    assert all(parameter.grad is None for parameter in run.executor.arm.model.parameters())


def test_a_checkpoint_that_would_lead_to_other_weights_is_found_by_trying(tmp_path: Path) -> None:
    for host in (Host, global_scale, open_file):
        again = config(tmp_path, host)
        try_checkpoint(prepare(again), lambda again=again: prepare(again))
    counted = config(tmp_path, Counted)
    with pytest.raises(ConfigError, match=r"model = 'fc1\.weight': is another after a step from a checkpoint"):
        try_checkpoint(prepare(counted), lambda: prepare(counted))
