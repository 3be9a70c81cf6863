"""A run goes on from a checkpoint as if it had never stopped, whatever its host holds; what can't be kept is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import Notice, Observer, StepDone
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer

CONFIG = TrainConfig(samples=300, epochs=3, grow="never", checkpoint_every_epochs=1, evaluate_every_steps=2)


class Host(nn.Module):
    """What a factory gives: two layers and a place for state."""

    def __init__(self, shape: tuple[int, ...] = (64,), outputs: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 8)
        self.fc2 = nn.Linear(8, outputs)

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.middle(self.fc1(x.flatten(1)))))


class Counting(Host):
    """A Python counter decides what is computed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls = 0

    def middle(self, hidden: Tensor) -> Tensor:
        self.calls += self.training
        return hidden * (1 + self.calls % 7 / 10)


class Averaging(Host):
    """A buffer that no state_dict holds."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def middle(self, hidden: Tensor) -> Tensor:
        if self.training and type(hidden) is Tensor:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return hidden - self.mean


class Noisy(Host):
    """A generator of the module's own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.generator = torch.Generator().manual_seed(5)

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden + 0.1 * torch.randn(hidden.shape, generator=self.generator) if self.training else hidden


class Closing(Host):
    """A counter that only a hook knows."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        calls = 0

        def scaled(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            nonlocal calls
            calls += module.training
            return output * (1 + calls % 5 / 10)

        self.fc1.register_forward_hook(scaled)


class Remembering(Host):
    """The last activation takes part in the next."""

    def middle(self, hidden: Tensor) -> Tensor:
        last = getattr(self, "last", None)
        if self.training and type(hidden) is Tensor:
            self.last = hidden
        return hidden if last is None else hidden + 0.1 * last.detach().mean(0)


class Norm(Host):
    """An old-style norm, whose state_dict needs its metadata."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        nn.utils.spectral_norm(self.fc1)


class Token:
    """No plain value."""


class Unkept(Host):
    """It gathers objects of a class that a factory would not make again."""

    def middle(self, hidden: Tensor) -> Tensor:
        if self.training and type(hidden) is Tensor:
            self.tokens = [Token()]
        return hidden


class Extra(Host):
    """Its state_dict holds an object that the loader refuses."""

    def get_extra_state(self) -> Any:
        return {"seen": [Token()]}

    def set_extra_state(self, state: Any) -> None:
        pass


class KilledError(Exception):
    """Stands for kill -9."""


class Watching(Observer):
    """Keeps the notices and may kill the run."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.notices: list[Notice] = []

    def on_steps(self, steps: list[StepDone]) -> None:
        if any(done.step == self.kill_at for done in steps):
            raise KilledError

    def on_events(self, notices: Any) -> None:
        self.notices.extend(notices)


def config(host: type[Host]) -> TrainConfig:
    return replace(CONFIG, model=f"{__name__}:{host.__name__}")


def train(run: Prepared, store: CheckpointStore, observer: Observer | None = None, **how: Any) -> dict[str, Any]:
    return Trainer(run, lambda opening: NullControl(), observer or Watching(), store=store).train(**how)


def killed(run: Prepared, store: CheckpointStore) -> Watching:
    watching = Watching(kill_at=7)
    with pytest.raises(KilledError):
        train(run, store, watching)
    return watching


@pytest.mark.parametrize("host", [Host, Counting, Averaging, Noisy, Closing, Remembering, Norm])
def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(tmp_path: Path, host: type[Host]) -> None:
    store = CheckpointStore(tmp_path / "killed", keep=2)
    assert killed(prepare(config(host)), store).notices == []
    resumed = train(prepare(config(host)), store, resume=True)
    whole = train(prepare(config(host)), CheckpointStore(tmp_path / "whole", keep=2))
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["reproducible"]


def test_what_a_checkpoint_cant_hold_is_told_and_a_resumed_run_says_so(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    notices = killed(prepare(config(Unkept)), store).notices
    assert [(notice.name, notice.level) for notice in notices] == [("tolaria.checkpoint_incomplete", "WARNING")]
    assert "can't hold tokens[0] of the model" in notices[0].message
    summary = train(prepare(config(Unkept)), store, resume=True)
    assert not summary["reproducible"]
    assert "couldn't hold tokens[0]" in summary["reproducible_cause"]


def test_what_cant_be_read_back_is_refused_at_the_first_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"_extra_state\.seen\[0\] = 'Token': can't be read back"):
        train(prepare(config(Extra)), CheckpointStore(tmp_path, keep=2))


def changed(splits: Splits) -> Splits:
    inputs = splits.train.inputs.clone()
    inputs[3] += 0.5
    return replace(splits, train=replace(splits.train, inputs=inputs))


@pytest.mark.parametrize(("change", "refused"), [(changed, True), (lambda splits: splits, False)])
def test_data_that_changed_between_kill_and_resume_is_refused(
    tmp_path: Path, change: Callable[[Splits], Splits], refused: bool
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    killed(prepare(config(Host)), store)
    run = prepare(config(Host))
    run.splits = change(run.splits)
    if not refused:
        assert train(run, store, resume=True)["finished"]
        return
    with pytest.raises(ConfigError, match="data = 'digits': its samples have changed since the checkpoint"):
        train(run, store, resume=True)
