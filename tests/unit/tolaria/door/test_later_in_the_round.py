"""What a loop changes behind its optimiser's step is for both arms what the next round begins with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.core.errors import ConfigError
from tests.unit.tolaria.door.test_growth import CULLED, NEVER, Own, same


class Softened:
    """A loop whose labels are softened by more from round to round, and which draws behind its step."""

    def __init__(self) -> None:
        self.by = 0.0

    def step(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        drawn = inputs + 0.01 * torch.randn_like(inputs)
        return F.cross_entropy(model(drawn), targets, reduction="none", label_smoothing=self.by)

    def one_round(self, model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = self.step(model, batch).mean()
        loss.backward()
        optimizer.step()
        self.by = min(0.3, self.by + 0.01 * float(torch.rand(())))
        return loss


def softened(run_dir: Any) -> tuple[Own, Softened]:
    labels = Softened()
    return Own(run_dir, step=labels.step, one_round=labels.one_round), labels


def test_a_cull_leaves_what_never_grew_where_the_loop_changes_its_loss_behind_the_step(tmp_path, scripted):
    scripted(NEVER)
    never, its_labels = softened(tmp_path / "never")
    never.run()
    scripted(CULLED)
    own, labels = softened(tmp_path / "culled")
    result = own.run()
    assert [seed["fate"] for seed in result.summary["seeds"]] == ["culled"]
    assert labels.by == its_labels.by
    assert 0.0 < labels.by < 0.3
    assert same(own.model, never.model)
    assert result.summary["reproducible"]


def test_a_network_that_is_trained_against_the_one_that_grows_may_step_behind_it(tmp_path, scripted):
    """As the generator of a GAN does."""
    scripted(CULLED)
    made = nn.Linear(4, 8)
    its_optimizer = torch.optim.SGD(made.parameters(), lr=0.05)

    def step(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        fake = made(torch.randn(len(inputs), 4)).detach()
        of_fake = F.cross_entropy(model(fake), torch.zeros_like(targets), reduction="none")
        return F.cross_entropy(model(inputs), targets, reduction="none") + of_fake

    def one_round(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = step(model, batch).mean()
        loss.backward()
        optimizer.step()
        its_optimizer.zero_grad()
        F.cross_entropy(model(made(torch.randn(16, 4))), torch.ones(16, dtype=torch.long)).backward()
        its_optimizer.step()
        return loss

    before = copy.deepcopy(made)
    result = Own(tmp_path / "run", step=step, one_round=one_round).run()
    assert not same(made, before)
    assert [seed["fate"] for seed in result.summary["seeds"]] == ["culled"]


def test_what_changes_between_the_loss_and_the_step_is_refused(tmp_path, scripted):
    scripted(CULLED)
    labels = Softened()

    def one_round(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = labels.step(model, batch).mean()
        loss.backward()
        labels.by += 0.1
        optimizer.step()
        return loss

    with pytest.raises(
        ConfigError, match=r"the loss that was noted is .*a target network, a queue.* behind optimizer\.step\(\)"
    ):
        Own(tmp_path / "run", step=labels.step, one_round=one_round).run()
