"""Multiply-accumulates as needed work, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.executor import TrainingArm, count_macs


def arm(model: nn.Module) -> TrainingArm:
    return TrainingArm(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_first_layer_needs_no_input_gradient():
    counted = count_macs(arm(nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))), torch.randn(8, 64))
    assert counted.forward == 64 * 6 + 6 * 10
    assert counted.training == 2 * 64 * 6 + 3 * 6 * 10


def test_convolutions_count_their_kernels_at_every_position():
    counted = count_macs(arm(nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.Conv1d(3, 4, 3))), torch.randn(2, 2, 12))
    first, second = 2 * 3 * 5 * 8, 3 * 4 * 3 * 6
    assert counted.forward == first + second
    assert counted.training == 2 * first + 3 * second


def test_frozen_layers_need_no_weight_gradient():
    frozen = nn.Linear(4, 4).requires_grad_(False)
    counted = count_macs(arm(nn.Sequential(nn.Linear(3, 4), frozen, nn.Linear(4, 2))), torch.randn(5, 3))
    assert counted.training == 2 * 12 + 2 * 16 + 3 * 8


@pytest.mark.parametrize(
    ("blueprint", "slot", "parameters"),
    [
        ("span.linear", "span_linear:blocks.0.fc1-blocks.0.fc2", {"width": 4}),
        ("attention.self", "residual_linear:blocks.0-blocks.0", {"heads": 2, "head_size": 4}),
        ("residual.linear", "residual_linear:blocks.1-blocks.1", {"width": 3}),
    ],
)
def test_a_seeds_measured_cost_is_what_the_formula_says(rig, blueprint, slot, parameters):
    run = rig("transformer")
    report = run.graft(blueprint, slot, **parameters).reports[-1]
    tokens, size = 8, 8
    expected = {
        "span.linear": (4 * (size + 1) + 4 * size, tokens * 2 * 4 * size),
        "attention.self": (2 * size + 4 * size * 8, tokens * 4 * size * 8 + 2 * tokens * tokens * 8),
        "residual.linear": (2 * size + 2 * 3 * size + 3 + size, tokens * 2 * 3 * size),
    }[blueprint]
    assert (report.added_parameters, report.added_forward_macs) == expected


def test_counting_leaves_no_trace(rig):
    run = rig("noisy convnet")
    run.graft("span.conv", "span_conv:conv1-conv2", width=3)
    digest, generator = run.arm.digest(), torch.default_generator.get_state()
    count_macs(run.arm, run.task.probe_inputs())
    assert run.arm.digest() == digest
    assert torch.equal(torch.default_generator.get_state(), generator)
    assert all(parameter.grad is None for parameter in run.executor.host_parameters())
