"""Tensors are counted while somebody holds them, each storage once."""

from __future__ import annotations

import torch

from esper.kasmina.executor.memory.meter import Meter


def test_what_is_made_counts_until_it_is_let_go_and_what_was_there_does_not() -> None:
    weight = torch.ones(100, 100)
    with Meter() as meter:
        product = weight @ weight
        view = product.view(-1)
        assert meter.live_bytes == product.nbytes
        weight.add_(1)
        view.mul_(2)
        assert meter.live_bytes == product.nbytes
        other = product + 1
        del product
        assert meter.live_bytes == 2 * other.nbytes
        del view
        assert meter.live_bytes == other.nbytes
    assert meter.peak_bytes == 2 * other.nbytes


def test_what_a_backward_pass_needs_is_held_by_the_graph_alone() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh())
    inputs = torch.randn(32, 8)
    with Meter() as meter:
        loss = layer(inputs).sum()
        held = meter.live_bytes
        gradients = torch.autograd.grad(loss, list(layer.parameters()))
        after = meter.live_bytes
    assert held >= 32 * 64 * 4
    assert after == sum(gradient.nbytes for gradient in gradients) + loss.nbytes
    assert meter.peak_bytes > held
