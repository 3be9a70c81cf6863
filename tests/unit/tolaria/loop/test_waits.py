"""Between two boundaries no step asks for a number: losses, norms and verdicts stay where they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from esper.tolaria.config import TrainConfig
from tests.unit.tolaria.loop.waiting import no_reads, watch_steps
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.stacks.test_stack_runs import UNDONE, config
from tests.unit.tolaria.stacks.test_stack_runs import run as run_stacks
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, run

__all__ = ["config"]


@pytest.mark.parametrize(
    "change",
    [
        {"clip_norm": 0.5, "optimizer": "adamw"},
        pytest.param({"optimizer": "sgd", "accumulate": 2}, marks=pytest.mark.slow),
        pytest.param({"amp": "bf16"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_step_of_a_stack_and_its_twin_reads_a_value(
    config: TrainConfig, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_steps(monkeypatch, no_reads, first=0)
    run_stacks(replace(config, **change), UNDONE)
    assert len(seen) == 30
    assert sum(has_twin for _, has_twin in seen) > 10


def test_no_step_of_a_seed_and_its_twin_reads_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_steps(monkeypatch, no_reads, first=0)
    run(replace(CONFIG, clip_norm=0.5), ScriptedControl(KEPT))
    assert sum(has_twin for _, has_twin in seen) > 10


@pytest.mark.parametrize("read", [Tensor.item, bool, Tensor.tolist, lambda value: torch.equal(value, value)])
def test_the_watch_sees_what_is_read(read: Callable[[Tensor], Any]) -> None:
    value = torch.ones(1)
    with pytest.raises(AssertionError, match="in a step"), no_reads():
        read(value)
