"""Recorded steps on the CPU: which steps are replayed, what makes a recording void, and the same weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.loop.recording import RecordingBackend
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact
from tests.unit.tolaria.test_trainer import CONFIG, CULLED, KEPT, Recorder

PLAIN = replace(CONFIG, grow="never", dropout=0.0)


def run(config: Any, script: Any = None, backend: RecordingBackend | None = None) -> tuple[Trainer, Recorder]:
    recorder = Recorder()
    control = NullControl() if script is None else ScriptedControl(script)
    steps = ArmSteps if backend is None else partial(ArmSteps, backend=backend)
    trainer = Trainer(prepare(config, fetch_artifact), lambda opening: control, recorder, steps=steps)
    trainer.train()
    return trainer, recorder


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [value for value in trainer._run.executor.arm.model.state_dict().values() if value.is_floating_point()]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dropout": 0.2},
        {"optimizer": "sgd", "clip_norm": 0.5},
        {"optimizer": "adamw", "schedule": "cosine", "ema": 0.9},
        {"optimizer": "rmsprop"},
        {"accumulate": 4},
        {"amp": "bf16"},
    ],
    ids=str,
)
def test_replayed_steps_end_at_the_weights_of_eager_ones(change: dict[str, Any]) -> None:
    config = replace(PLAIN, **change)
    eager, told = run(config)
    backend = RecordingBackend()
    graphed, heard = run(config, backend=backend)
    torch.testing.assert_close(weights(graphed), weights(eager), rtol=1e-6, atol=1e-7)
    losses = [[done.loss for done in recorder.steps] for recorder in (told, heard)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert [done.gradient_norm is None for done in heard.steps] == [done.gradient_norm is None for done in told.steps]
    counts = graphed._session.graphs
    print(counts)
    assert counts is not None
    assert backend.captures == counts.captures


@pytest.mark.parametrize("script", [KEPT, CULLED], ids=["kept", "culled"])
def test_a_graft_records_once_and_alpha_never(script: Any) -> None:
    eager, _ = run(replace(CONFIG), script)
    backend = RecordingBackend()
    graphed, _ = run(replace(CONFIG), script, backend)
    print(graphed._session.graphs)
    torch.testing.assert_close(weights(graphed), weights(eager), rtol=1e-5, atol=1e-6)
