"""An arm that grew in depth is saved, put back, copied and shortened as one state."""

from __future__ import annotations

import copy

import torch

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.stacks.run import Run
from tests.unit.kasmina.executor.stacks.hosts import decoder

X = torch.randn(6, 5, 8)


def arm() -> TrainingArm:
    model = decoder()
    return TrainingArm(model, torch.optim.AdamW(model.parameters(), lr=1e-2))


def step(one: TrainingArm, inputs: torch.Tensor = X) -> None:
    one.optimizer.zero_grad()
    one.model(inputs).square().mean().backward()
    one.optimizer.step()


def test_a_saved_arm_is_put_back_with_its_depth_and_goes_on_the_same() -> None:
    grown = arm()
    step(grown)
    grown.repeat(Run("layers", 0, 3))
    step(grown)
    grown.repeat(Run("layers", 4, 6))
    step(grown)
    again = arm()
    again.load_state_dict(copy.deepcopy(grown.state_dict()), lambda _: [])
    assert len(again.model.layers) == 8
    assert again.digest() == grown.digest()
    for one in (grown, again):
        step(one, 2 * X)
    assert again.digest() == grown.digest()


def test_going_back_to_a_state_before_the_growth_takes_the_copies_out() -> None:
    one = arm()
    step(one)
    before, digest = one.clone().state_dict(), one.digest()
    one.repeat(Run("layers", 0, 3))
    step(one)
    one.load_state_dict(before, lambda _: [])
    assert one.digest() == digest
    assert one.stacks == []
    assert one.model.config.num_hidden_layers == 3


def test_the_twin_of_a_repeated_run_is_the_state_before() -> None:
    one, never = arm(), arm()
    for each in (one, never):
        step(each)
    twin = one.clone()
    one.repeat(Run("layers", 0, 3))
    for each in (one, twin, never):
        step(each)
    assert twin.digest() == never.digest()
    assert one.digest() != never.digest()
