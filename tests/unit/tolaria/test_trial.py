"""A host that can't be copied or kept is refused before anything of a run is touched, and only where it matters."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.dry_run import dry_run
from esper.tolaria.export import writing
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trial import tried_checkpoint, try_checkpoint, try_host
from tests.unit.tolaria.test_run import At

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


class FitsOnce(Host):
    """Of a second one there is no room."""

    room = True

    def to(self, *arguments: Any, **options: Any) -> Any:
        if not FitsOnce.room:
            raise torch.OutOfMemoryError("no room for 4 GiB")
        return super().to(*arguments, **options)


def lazy(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(6, outputs))


PLAIN = RunOptions(tensorboard=False)
OUTSIDE = "model = 'fc1.weight': is another after a step from a checkpoint"


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
def test_a_run_that_never_grows_needs_no_copy(tmp_path: Path, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "disproof", lambda *given: "")  # the fresh process of the export is another test's
    assert "\neverything works" in dry_run(config(tmp_path, host, grow="never"), PLAIN)
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
    for host in (Host, global_scale, open_file, lazy):
        try_checkpoint(prepare(config(tmp_path, host)))
    with pytest.raises(ConfigError, match=OUTSIDE + r": it depends on the class attribute Counted\.calls outside"):
        try_checkpoint(prepare(config(tmp_path, Counted)))


def test_a_growing_host_with_state_outside_is_refused_by_the_run_as_by_the_dry_run(tmp_path: Path) -> None:
    for start in (lambda of: grow(of, PLAIN, (), Interruption()), lambda of: dry_run(of, PLAIN)):
        with pytest.raises(ConfigError, match=OUTSIDE):
            start(config(tmp_path, Counted, judge="muted"))
    assert list(tmp_path.iterdir()) == []


def test_one_that_never_grows_is_told_of_it_and_so_is_whoever_resumes_it(tmp_path: Path) -> None:
    never = config(tmp_path, Counted, grow="never", evaluate_every_steps=2)
    assert OUTSIDE in dry_run(never, PLAIN)
    stopping = Interruption()
    stopped = grow(never, PLAIN, [At(6, lambda: signal.raise_signal(signal.SIGTERM))], stopping)
    assert (stopped["stop_reason"], stopped["reproducible"]) == ("interrupted", True)
    lines = (never.run_dir / "events.jsonl").read_text().splitlines()
    told = [event for event in map(json.loads, lines) if OUTSIDE in event.get("detail", "")]
    assert [event["step"] for event in told] == [0]
    resumed = grow(never, RunOptions(resume=True, tensorboard=False), (), Interruption())
    assert not resumed["reproducible"]
    assert "couldn't hold what fc1.weight depends on outside the model" in resumed["reproducible_cause"]


def test_without_checkpoints_nothing_is_tried(tmp_path: Path) -> None:
    run = config(tmp_path, Counted, grow="never", checkpoint_every_epochs=0)
    assert OUTSIDE not in dry_run(run, PLAIN)
    assert grow(run, PLAIN, (), Interruption())["reproducible"]


def test_a_network_that_fits_only_once_is_told_and_not_refused(tmp_path: Path) -> None:
    for grows in ("never", "always"):
        run = prepare(config(tmp_path, FitsOnce, grow=grows, judge="muted"))
        FitsOnce.room = False
        try:
            assert not tried_checkpoint(run)
        finally:
            FitsOnce.room = True
        assert run.doubts[-1].endswith("couldn't be tried: OutOfMemoryError: no room for 4 GiB")
        assert run.outside == []


def test_the_trial_loads_no_data_and_leaves_the_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(config(tmp_path, lazy))
    digest, generator = run.executor.arm.digest(), torch.default_generator.get_state()
    monkeypatch.setattr("esper.tolaria.task.posed.load_splits", None)
    assert tried_checkpoint(run)
    assert run.executor.arm.digest() == digest
    assert run.executor.arm.optimizer.state == {}
    assert torch.equal(torch.default_generator.get_state(), generator)
