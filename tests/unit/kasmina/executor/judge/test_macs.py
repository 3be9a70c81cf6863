"""Multiply-accumulates as needed work, against counts by hand."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.kasmina.executor import TrainingArm, count_macs
from esper.kasmina.executor.judge.macs import counted


def arm(model: nn.Module) -> TrainingArm:
    return TrainingArm(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_first_layer_needs_no_input_gradient():
    work = count_macs(arm(nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))), torch.randn(8, 64))
    assert work.forward == 64 * 6 + 6 * 10
    assert work.training == 2 * 64 * 6 + 3 * 6 * 10


def test_convolutions_count_their_kernels_at_every_position():
    work = count_macs(arm(nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.Conv1d(3, 4, 3))), torch.randn(2, 2, 12))
    first, second = 2 * 3 * 5 * 8, 3 * 4 * 3 * 6
    assert work.forward == first + second
    assert work.training == 2 * first + 3 * second


def test_frozen_layers_need_no_weight_gradient():
    frozen = nn.Linear(4, 4).requires_grad_(False)
    work = count_macs(arm(nn.Sequential(nn.Linear(3, 4), frozen, nn.Linear(4, 2))), torch.randn(5, 3))
    assert work.training == 2 * 12 + 2 * 16 + 3 * 8


class Attention(nn.Module):
    """Attention of two heads of four over six positions, without projections, after one linear layer."""

    def __init__(self, *, is_causal: bool, key_heads: int = 2) -> None:
        super().__init__()
        self.inward = nn.Linear(8, 8, bias=False)
        self.is_causal, self.key_heads = is_causal, key_heads

    def forward(self, values_BTD):
        heads_BHTS = self.inward(values_BTD).unflatten(-1, (2, 4)).transpose(1, 2)
        others_BHTS = heads_BHTS[:, : self.key_heads]
        is_grouped = self.key_heads != 2
        return F.scaled_dot_product_attention(
            heads_BHTS, others_BHTS, others_BHTS, is_causal=self.is_causal, enable_gqa=is_grouped
        )


@pytest.mark.parametrize("key_heads", [2, 1])
@pytest.mark.parametrize("is_causal", [False, True])
def test_causal_attention_counts_as_half_forward_and_backward(is_causal, key_heads):
    work = count_macs(arm(Attention(is_causal=is_causal, key_heads=key_heads)), torch.randn(3, 6, 8))
    linear, product = 6 * 8 * 8, 2 * 6 * 6 * 4 // (2 if is_causal else 1)
    assert work.forward == linear + 2 * product
    assert work.training == 2 * linear + 6 * product


@pytest.mark.parametrize(
    ("operator", "before_dropout"),
    [("flash_attention", ()), ("efficient_attention", (None, True)), ("cudnn_attention", (None, True))],
)
@pytest.mark.parametrize(("is_causal", "share"), [(False, 2), (True, 1)])
def test_every_fused_operator_of_cuda_counts_alike(operator, before_dropout, is_causal, share):
    heads_BHTS = torch.empty(3, 2, 6, 4, device="meta", requires_grad=True)
    attend = getattr(torch.ops.aten, f"_scaled_dot_product_{operator}")
    product = 3 * 2 * 6 * 6 * 4
    mixed, forward = counted(lambda: attend(*[heads_BHTS] * 3, *before_dropout, 0.0, is_causal)[0])
    _, backward = counted(lambda: torch.autograd.grad(mixed.sum(), heads_BHTS))
    assert (forward, backward) == (share * product, 2 * share * product)


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
        # The host is a language model, so half of the pairs of tokens are needed.
        "attention.self": (2 * size + 4 * size * 8, tokens * 4 * size * 8 + tokens * tokens * 8),
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


class Grouped(nn.Module):
    """Has work of its own beside that for each sample, and may want its samples in groups."""

    seen: ClassVar[list[int]] = []

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group
        self.layer, self.bias = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("places", torch.randn(32, 8))

    def forward(self, x):
        if len(x) % self.group:
            raise ValueError("not a whole group")
        Grouped.seen.append(len(x))
        return self.layer(x) + self.bias(self.places).mean(0)


@pytest.mark.parametrize(("group", "passed"), [(1, [2, 4]), (16, [64])])
def test_few_samples_tell_the_work_of_all_and_all_are_passed_where_a_host_does_not_bear_few(group, passed):
    host = Grouped(group)
    Grouped.seen.clear()
    arm = TrainingArm(host, torch.optim.SGD(host.parameters(), 0.1))
    found = count_macs(arm, torch.randn(64, 8))
    forward = (64 * 64 + 32 * 64) // 64
    assert (found.forward, found.training) == (forward, 2 * forward)
    assert Grouped.seen == passed
