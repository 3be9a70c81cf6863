"""A step that fails before its optimiser leaves nothing behind; one that fails later is not made again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.executor import TrainingArm
from esper.tolaria.loop.remade import Remade


@pytest.fixture
def arm() -> TrainingArm:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model.register_buffer("constant", torch.ones(3))
    return TrainingArm(model, torch.optim.Adam(model.parameters(), lr=0.1, fused=True))


def forward(arm: TrainingArm) -> None:
    arm.model(torch.randn(8, 4)).sum().backward()


def test_buffers_of_a_failed_pass_are_put_back_and_weights_that_moved_are_noticed(arm: TrainingArm) -> None:
    remade = Remade()
    for _ in range(3):
        before = {name: buffer.clone() for name, buffer in arm.model.named_buffers()}
        remade.begin(arm)
        forward(arm)
        assert remade.restore()
        assert all(torch.equal(buffer, before[name]) for name, buffer in arm.model.named_buffers())
        remade.begin(arm)
        forward(arm)
        remade.end()
        assert not torch.equal(arm.model[1].running_mean, before["1.running_mean"])  # type: ignore[index]
    remade.begin(arm)
    forward(arm)
    arm.optimizer.step()
    assert not remade.restore()


def test_buffers_that_are_too_large_to_be_copied_are_not_taken_for_restored(arm: TrainingArm) -> None:
    remade = Remade(limit_bytes=10)
    remade.begin(arm)
    forward(arm)
    assert not remade.restore()


def test_the_optimiser_is_watched_for_the_time_of_a_step_alone(arm: TrainingArm) -> None:
    remade = Remade()
    for _ in range(3):
        remade.begin(arm)
    assert len(arm.optimizer._optimizer_step_pre_hooks) == 1
    remade.end()
    assert not arm.optimizer._optimizer_step_pre_hooks
