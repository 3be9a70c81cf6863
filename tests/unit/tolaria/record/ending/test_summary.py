"""The summary reports what was measured on the data that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.ending.summary import quantile
from esper.tolaria.record.observer import Observers
from esper.tolaria.task.data.facts import largest_share
from esper.tolaria.task.objective.task import evaluate
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer


def test_val_figures_are_of_the_judging_data_and_test_figures_of_the_test_data() -> None:
    run = prepare(TrainConfig(samples=600, hidden=(5,), epochs=2, grow="never", evaluate_every_steps=4))
    summary = Trainer(run, lambda opening: NullControl(), Observers()).train()
    judged, tested = (evaluate(run.executor.arm, run.task, split) for split in (run.splits.judge, run.splits.test))
    assert (summary["val_loss"], summary["val_accuracy"]) == judged
    assert (summary["test_loss"], summary["test_accuracy"]) == tested
    assert judged[0] != tested[0]
    assert summary["test_largest_class"] == largest_share(run.splits)
    assert summary["task"] == "classification, 10 classes, smallest 37"
    assert summary["machine"].endswith(f", torch {torch.__version__}")
    assert torch.backends.cpu.get_cpu_capability() in summary["machine"]
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    for maker in re.findall(r"^vendor_id\s*: (\S+)", told, re.MULTILINE):
        assert maker in summary["machine"]
    assert summary["splits"] == {name: len(split) for name, split in run.splits.named()}


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.99, 3.0), ([4.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.25, 1.25), ([1.0, 2.0], 1.0, 2.0)],
)
def test_a_quantile_is_linear_between_neighbours(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == pytest.approx(expected)
