"""Wherever memory runs out in a grown network's life, from its steps to its checkpoints, the run is none the worse."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper.tolaria.config import TrainConfig
from tests.unit.tolaria.limited_memory import LimitedMemory
from tests.unit.tolaria.runs.test_twin_memory import UNDONE, run, told_of, with_free

ENDLESS = 2**40
# What is the largest of them: evaluations, training steps, or what both arms hold.
SHAPES = {
    "evaluation": {"width": 128, "batch_size": 4, "depth": 2},
    "step": {"width": 48, "batch_size": 96, "depth": 2},
    "weights": {"width": 192, "batch_size": 8, "depth": 4, "checkpoint_every_epochs": 1},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(np.random.default_rng(0).choice(("the", "seed", "grows", "deeper", "than"), 5000)))
    return path


def config_of(text: Path, largest: str) -> TrainConfig:
    return TrainConfig(
        data=f"text:{text}",
        context=16,
        model="transformer",
        heads=2,
        steps=24,
        steps_per_epoch=6,
        min_samples=50,
        evaluate_every_steps=2,
        run_dir=text.parent / "run",
        device="cpu",
        **SHAPES[largest],  # type: ignore[arg-type]
    )


def within(limit_bytes: int | None, config: TrainConfig, script: Any = UNDONE) -> tuple[Any, int]:
    """The summary of a run that believes in a large device and has a small one, and its peak."""
    gc.collect()
    with LimitedMemory(limit_bytes) as memory:
        return run(config, script, change=with_free(ENDLESS))[0], memory.peak_bytes


@cache
def measured(text: Path, largest: str) -> tuple[str, int, int]:
    """The weights of the run that never grew, its peak, and the peak of both arms."""
    config = config_of(text, largest)
    never, alone = within(None, replace(config, grow="never"), {})
    grown, both = within(None, replace(config, twin="live"))
    assert grown["weights_digest"] == never["weights_digest"]
    return never["weights_digest"], alone, both


@pytest.mark.parametrize(
    ("largest", "twin", "share", "becomes"),
    [
        ("evaluation", "live", 0.92, "bursts"),
        pytest.param("evaluation", "live", 0.3, "undone", marks=pytest.mark.slow),
        pytest.param("evaluation", "bursts", 0.92, None, marks=pytest.mark.slow),
        pytest.param("evaluation", "bursts", 0.3, "undone", marks=pytest.mark.slow),
        pytest.param("evaluation", "bursts", 0.8, "undone", marks=pytest.mark.slow),
        pytest.param("evaluation", "live", 0.8, "undone", marks=pytest.mark.slow),
        pytest.param("step", "live", 0.1, "undone", marks=pytest.mark.slow),
        pytest.param("step", "live", 0.5, "undone", marks=pytest.mark.slow),
        pytest.param("step", "bursts", 0.5, "undone", marks=pytest.mark.slow),
        pytest.param("weights", "bursts", 0.8, "undone", marks=pytest.mark.slow),
        pytest.param("weights", "bursts", 1.0, "undone", marks=pytest.mark.slow),
    ],
)
def test_the_run_ends_with_the_weights_of_the_one_that_never_grew(
    text: Path, largest: str, twin: str, share: float, becomes: str | None
) -> None:
    digest, alone, both = measured(text, largest)
    limit = int(alone + share * (both - alone))
    summary, _ = within(limit, replace(config_of(text, largest), twin=twin))
    assert summary["weights_digest"] == digest
    assert told_of(summary).get("became") == becomes
