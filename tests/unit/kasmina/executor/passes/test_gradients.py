"""Gradients through re-entrant checkpoints are those of the plain graph, and no .grad notices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.kasmina.executor.passes.gradients import gradients, is_reentrant
from esper.kasmina.executor.passes.trace import rerun_order


class Checkpointed(nn.Module):
    """Two checkpoints, the second of two layers."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        torch.default_generator.manual_seed(4)
        self.first, self.second, self.third, self.unused = (nn.Linear(3, 3) for _ in range(4))
        self.last = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.second, self.first(x), use_reentrant=self.use_reentrant)
        return checkpoint(self.last, self.third(hidden), use_reentrant=self.use_reentrant)


X = torch.linspace(-1.0, 1.0, 12).view(4, 3)


def test_they_equal_those_of_the_plain_graph_and_leave_every_grad_alone():
    found = []
    for use_reentrant in (False, True):
        model = Checkpointed(use_reentrant)
        parameters = list(model.parameters())
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 7.0)
        before = [parameter.grad for parameter in parameters]
        found.append(gradients(model(X).square().sum(), parameters, [model]))
        assert all(parameter.grad is kept for parameter, kept in zip(parameters, before, strict=True))
        assert all(bool((kept == 7.0).all()) for kept in before)
    for plain, reentrant in zip(*found, strict=True):
        assert (plain is None) == (reentrant is None)
        assert plain is None or torch.equal(plain, reentrant)


def test_a_reentrant_checkpoint_is_known_by_the_graph():
    assert is_reentrant(Checkpointed(True)(X))
    assert not is_reentrant(Checkpointed(False)(X))
    assert not is_reentrant(X.sum())


def test_hooks_that_would_act_on_the_gradients_are_not_set_off():
    model = Checkpointed(True)
    acted: list[Tensor] = []
    model.first.weight.register_post_accumulate_grad_hook(acted.append)
    with pytest.raises(RuntimeError, match="don't go with re-entrant checkpoints"):
        gradients(model(X).sum(), list(model.parameters()), [model])
    assert acted == []


def test_what_is_run_again_comes_checkpoint_by_checkpoint_from_the_end_each_in_forward_order():
    assert rerun_order(Checkpointed(True), X) == ("last", "last.0", "last.1", "second")
    assert rerun_order(Checkpointed(False), X) == ()
