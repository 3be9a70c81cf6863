"""What a network takes and gives is known without the data, and says nothing of it but shapes and bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.core.errors import DependencyViolationError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.interface import Interface, Shown
from esper.tolaria.task.prepare import prepare

PIXELS = Interface(
    sample_shape=(4,), source_shape=(1, 2, 2), dtype="float32", low=None, high=None, outputs=3, task="CLASSIFICATION"
)
TOKENS = Interface(sample_shape=(5,), source_shape=(5,), dtype="int64", low=2, high=6, outputs=7, task="LANGUAGE_MODEL")


@pytest.mark.parametrize("interface", [PIXELS, TOKENS])
def test_it_survives_a_checkpoint(interface: Interface) -> None:
    assert Interface.from_state(interface.to_state()) == interface


def test_inputs_are_made_up_and_always_the_same() -> None:
    assert torch.equal(PIXELS.inputs(3), PIXELS.inputs(3))
    assert (PIXELS.inputs(7).shape, PIXELS.inputs(7).dtype) == ((7, 4), torch.float32)
    tokens = TOKENS.inputs(200)
    assert (tokens.dtype, int(tokens.min()), int(tokens.max())) == (torch.int64, 2, 6)
    flags = replace(TOKENS, dtype="bool", low=0, high=1).inputs(50)
    assert (flags.dtype, bool(flags.any()), bool(flags.all())) == (torch.bool, True, False)


def test_it_is_said_in_words() -> None:
    assert PIXELS.described() == "float32 [rows, 4] (samples of 1 x 2 x 2, reshaped)"
    assert TOKENS.described() == "int64 [rows, 5], whole numbers 2 to 6"


def test_a_prepared_run_knows_its_own() -> None:
    run = prepare(TrainConfig(samples=400, min_samples=50))
    assert (run.interface.source_shape, run.interface.sample_shape) == ((1, 8, 8), (64,))
    assert (run.interface.dtype, run.interface.outputs, run.interface.task) == ("float32", 10, "CLASSIFICATION")


def test_a_network_that_is_only_looked_at_cannot_be_trained_or_judged() -> None:
    shown = Shown(PIXELS)
    assert shown.type == TaskType.TASK_TYPE_CLASSIFICATION
    assert len(shown.probe_inputs()) == 8
    for ask in (
        shown.judge_batches,
        lambda: shown.loss(None, torch.ones(1)),
        lambda: shown.scores(None, torch.ones(1)),
    ):
        with pytest.raises(DependencyViolationError, match="can only be looked at"):
            ask()
