"""Isolation is proven by the gradient, not by names: a leak is found wherever it comes from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.executor.judge.incubate import Incubation, shadow_graft
from esper.kasmina.executor.judge.isolation import reachable_parameters


class Leaky(nn.Module):
    """Reaches into the host behind its input's back."""

    def __init__(self, inner: nn.Module, host: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._host = [host]

    def forward(self, value: Tensor) -> Tensor:
        return self.inner(value) + self._host[0].fc2.bias.mean()


def test_an_isolated_seed_reaches_no_host_parameter_and_an_attached_one_does(rig):
    for isolate in (True, False):
        run = rig("noisy mlp")
        run.graft("span.linear", "span_linear:fc2-fc3", width=4, isolate=isolate)
        run.train(5)
        reached = reachable_parameters(run.arm, run.arm.grafts[0], run.task.probe_inputs(), key=1)
        assert (reached == 0) == isolate
        assert run.do().observations[0].isolation_violations == 0


def test_the_host_learns_beside_an_isolated_seed(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, isolate=True)
    before = [parameter.detach().clone() for parameter in run.executor.host_parameters()]
    run.train(2)
    moved = [not torch.equal(a, b) for a, b in zip(before, run.executor.host_parameters(), strict=True)]
    assert all(moved)


def test_a_leak_in_blending_is_counted(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, isolate=True)
    graft = run.arm.grafts[0]
    graft.module = Leaky(graft.module, run.arm.model)
    assert run.do().observations[0].isolation_violations == 1


def test_a_leak_while_incubating_is_counted(rig):
    run = rig("mlp")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4), run.directive("INCUBATE", duration_steps=6))
    incubation: Incubation = run.executor._state.lives["s1"].incubation
    incubation._graft.module = Leaky(incubation._graft.module, run.arm.model)
    run.train(3)
    assert run.do().observations[0].isolation_violations == 1


def test_an_incubating_seed_gives_the_host_no_gradient_and_keeps_its_modes(rig):
    run = rig("noisy mlp")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4), run.directive("INCUBATE", duration_steps=6))
    run.train(1)
    for parameter in run.executor.host_parameters():
        parameter.grad = None
    run.executor.shadow_step(*run.task.batch(1), 1)
    assert all(parameter.grad is None for parameter in run.executor.host_parameters())
    assert all(module.training for module in run.arm.model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in run.arm.model.modules())


def test_incubation_uses_an_optimiser_like_the_hosts(rig):
    run = rig("mlp", optimizer="adamw")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4), run.directive("INCUBATE", duration_steps=8))
    costs = []
    for _ in range(4):
        run.train(1)
        costs.append(run.executor.side_macs)
    optimizer = run.executor._state.lives["s1"].incubation.optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["weight_decay"] == 0.02
    assert optimizer.param_groups[0]["amsgrad"]
    assert costs[3] - costs[2] == costs[2] - costs[1] > 0
    run.train(8)
    assert run.executor.side_macs == costs[3] + 4 * (costs[3] - costs[2])
    run.do(run.directive("REMOVE"))
    assert run.executor.side_macs > costs[3]


def test_a_control_has_nothing_to_incubate(rig):
    run = rig("mlp")
    run.do(run.build("control.random_frozen", "span_linear:fc1-fc2", width=4, scale=1.0))
    assert "nothing to train" in run.failure(run.directive("INCUBATE", duration_steps=6))


def test_a_shadow_graft_gives_the_hosts_activation_no_gradient(rig):
    run = rig("mlp")
    run.do(run.build("residual.linear", "residual_linear:act1-act1", width=4))
    life = run.executor._state.lives["s1"]
    graft = shadow_graft(life.plan, run.executor._state.slots[life.plan.slot_id], life.module, 0)
    host = torch.ones(3, 6, requires_grad=True, device=run.arm.device)
    graft.join(host).sum().backward()
    assert host.grad is None
    assert all(parameter.grad is not None for parameter in life.module[-1].parameters())
