"""Optimisers stay fused through all that happens to a network: a step is one call of a kernel a group, in both arms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esper.kasmina.executor import SeedExecutor
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from tests.unit.tolaria.loop.waiting import watch_steps
from tests.unit.tolaria.scripted_control import Script, ScriptedControl
from tests.unit.tolaria.stacks.test_stack_runs import KEPT as STACKS_KEPT
from tests.unit.tolaria.stacks.test_stack_runs import UNDONE, Killer, config
from tests.unit.tolaria.stacks.test_stack_runs import KilledError as KilledStackError
from tests.unit.tolaria.stacks.test_stack_runs import run as run_stacks
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, run

__all__ = ["config"]


class Kernels(TorchDispatchMode):
    """Calls of fused optimisers, and updates of single tensors or lists of them that would stand for others."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = 0
        self.others: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.fused += name.startswith("_fused_")
        if name.startswith(("_foreach_addcdiv", "addcdiv_", "_foreach_lerp")):
            self.others.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    counting = Kernels()

    @contextmanager
    def counted() -> Iterator[None]:
        with counting:
            yield

    counting.steps = watch_steps(monkeypatch, counted, first=0)  # type: ignore[attr-defined]
    return counting


def arm_steps(kernels: Kernels) -> int:
    return sum(1 + has_twin for _, has_twin in kernels.steps)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("optimizer", "script"),
    [pytest.param("adamw", STACKS_KEPT, marks=pytest.mark.slow), ("sgd", UNDONE)],
    ids=["adamw, kept", "sgd, undone"],
)
def test_stacks_and_twins_are_stepped_by_one_fused_kernel_each(
    config: TrainConfig, optimizer: str, script: Script, kernels: Kernels
) -> None:
    run_stacks(replace(config, optimizer=optimizer), script)
    assert kernels.fused == arm_steps(kernels) > 30
    assert not kernels.others


def test_so_are_seeds_until_they_are_folded(kernels: Kernels) -> None:
    run(CONFIG, ScriptedControl(KEPT))
    # A seed's group has a kernel call of its own.
    assert kernels.fused > arm_steps(kernels) > 60
    assert not kernels.others


def test_a_resumed_run_is_stepped_by_the_same_kernels(tmp_path: Path, config: TrainConfig, kernels: Kernels) -> None:
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledStackError):
        run_stacks(config, STACKS_KEPT, Killer(), store=store)
    before = len(kernels.steps)  # type: ignore[attr-defined]
    kernels.fused = 0
    run_stacks(config, STACKS_KEPT, store=store, resume=True)
    resumed = kernels.steps[before:]  # type: ignore[attr-defined]
    assert kernels.fused == sum(1 + has_twin for _, has_twin in resumed) > 15
    assert not kernels.others


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_twins_optimiser_takes_the_verdict_of_a_scaler_on_the_device_as_the_original_does(optimizer: str) -> None:
    executor: SeedExecutor = prepare(replace(CONFIG, optimizer=optimizer)).executor
    arm = executor.arm
    for each in (arm.optimizer, arm.clone().optimizer, arm.clone().clone().optimizer):
        assert all(group["fused"] for group in each.param_groups)
        assert each._step_supports_amp_scaling  # type: ignore[attr-defined]
        assert type(each) is type(arm.optimizer)


def test_the_count_of_steps_of_a_resumed_optimiser_stands_where_the_parameters_do(config: TrainConfig) -> None:
    executor = prepare(config).executor
    parameter = executor.arm.host_parameters()[0]
    parameter.grad = torch.zeros_like(parameter)
    executor.arm.optimizer.step()
    saved = executor.arm.optimizer.state_dict()
    fresh = prepare(config).executor.arm
    fresh.optimizer.load_state_dict(saved)
    (state,) = fresh.optimizer.state.values()
    assert state["step"].device == parameter.device
    assert fresh.optimizer.param_groups[0]["fused"]
