"""A step that is skipped for a gradient that isn't finite leaves nothing behind, in fused optimisers too."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from esper.kasmina.executor import TrainingArm

INF = float("inf")


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan() -> Iterator[None]:
    """Memory that nothing was written to can't pass for a number."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(was_deterministic)


def arm_of(fused: bool, **settings: float) -> TrainingArm:
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    settings = {"lr": 0.5, "momentum": 0.9, **settings}
    optimizer = torch.optim.SGD(model.parameters(), fused=fused, **settings)
    return TrainingArm(model, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=4.0))


def train(arm: TrainingArm | SimpleNamespace, *factors: float) -> torch.Tensor:
    for factor in factors:
        arm.optimizer.zero_grad()
        arm.scaler.scale((arm.model(torch.ones(1, 3)) * factor).sum()).backward()
        arm.scaler.step(arm.optimizer)
        arm.scaler.update()
    return arm.model.weight.detach().clone()


@pytest.mark.parametrize("settings", [{}, {"nesterov": True}, {"dampening": 0.5}, {"weight_decay": 0.1}], ids=str)
def test_a_first_step_that_is_skipped_leaves_no_momentum(settings: dict[str, float]) -> None:
    expected = train(arm_of(False, **settings), INF, INF, 1.0, 2.0)
    assert expected.isfinite().all()
    assert torch.equal(train(arm_of(True, **settings), INF, INF, 1.0, 2.0), expected)


def test_nor_does_that_of_a_copy_or_of_a_copy_of_it() -> None:
    expected = train(arm_of(False), INF, 1.0)
    arm = arm_of(True)
    assert torch.equal(train(arm.clone(), INF, 1.0), expected)
    assert torch.equal(train(arm.clone().clone(), INF, 1.0), expected)


def test_nor_does_that_of_a_group_that_joins_later() -> None:
    joined = []
    for fused in (False, True):
        arm = arm_of(fused)
        train(arm, 1.0)
        late = nn.Parameter(torch.ones(3))
        arm.optimizer.add_param_group({"params": [late]})
        for factor in (INF, 1.0):
            arm.optimizer.zero_grad()
            arm.scaler.scale((late * factor).sum()).backward()
            arm.scaler.step(arm.optimizer)
            arm.scaler.update()
        joined.append(late.detach())
    assert joined[0].isfinite().all()
    assert torch.equal(*joined)


def test_a_step_that_is_made_is_torchs_own_to_the_bit() -> None:
    arm, plain = arm_of(True, weight_decay=0.1), arm_of(True, weight_decay=0.1)
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1, fused=True)
    bare = SimpleNamespace(model=plain.model, optimizer=optimizer, scaler=plain.scaler)
    assert torch.equal(train(arm, 1.0, 0.3, -2.0), train(bare, 1.0, 0.3, -2.0))
