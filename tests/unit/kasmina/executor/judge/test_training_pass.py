"""A training pass that is only tried leaves nothing behind, and says which parameters it reached."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor.judge.training_pass import try_training


class Moving(nn.Module):
    """Moves a parameter, a buffer, a counter and statistics in training; one layer is never used."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fc, self.norm, self.out, self.unused = (
            nn.Linear(12, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 5),
            nn.Linear(2, 2),
        )
        self.average = nn.Parameter(torch.zeros(6), requires_grad=False)
        self.count, self.fails, self.rows = 0, fails, 0

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.fc(x)) + torch.rand(())
        if self.training:
            self.count += 1
            with torch.no_grad():
                self.average += hidden.mean(0)
            if self.fails:
                raise KeyError("no")
        return self.out(hidden)


@pytest.mark.parametrize("fails", [False, True])
def test_it_leaves_no_trace_also_where_it_fails(rig_of, toy_task, fails):
    run = rig_of(Moving(), toy_task)
    run.train(2)
    model = run.arm.model
    model.fails = fails
    gradients = [parameter.grad for parameter in model.parameters()]
    digest, count, drawn = run.arm.digest(), model.count, (torch.get_rng_state(), random.getstate())
    if fails:
        with pytest.raises(KeyError):
            try_training(run.arm, run.task, key=1)
    else:
        tried = try_training(run.arm, run.task, key=1)
        assert tried.samples == 16
        assert tried.reached == {"fc.weight", "fc.bias", "norm.weight", "norm.bias", "out.weight", "out.bias"}
    assert (run.arm.digest(), model.count) == (digest, count)
    assert all(now is before for now, before in zip([p.grad for p in model.parameters()], gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]


def test_hosts_that_pair_their_samples_get_a_power_of_two(rig_of, toy_task):
    run = rig_of(nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)), toy_task)
    toy_task.judge_batches = lambda: iter([(toy_task.inputs[:23], toy_task.targets[:23])])
    assert try_training(run.arm, run.task, key=1).samples == 16
