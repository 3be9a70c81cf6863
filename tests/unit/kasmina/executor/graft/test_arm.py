"""An arm is one state: copied whole, saved whole, compared bit for bit."""

from __future__ import annotations

import io
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from esper.core.errors import GraftFailed
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.graft.blend import Blend
from esper.kasmina.executor.graft.graft import Graft


def test_a_clone_with_a_grafted_seed_is_independent_and_trains_alike(rig):
    run = rig("noisy mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    run.train(3)
    clone = run.arm.clone()
    assert clone.digest() == run.arm.digest()
    assert clone.grafts[0] is not run.arm.grafts[0]
    own = {id(parameter) for module in run.arm.modules for parameter in module.parameters()}
    assert own.isdisjoint(id(parameter) for module in clone.modules for parameter in module.parameters())
    with torch.no_grad():
        clone.grafts[0].module.write.weight.add_(1.0)
    inputs = run.task.probe_inputs()
    with clone.measured(1), run.arm.measured(1):
        assert not torch.equal(clone.model(inputs), run.arm.model(inputs))
    before = run.arm.digest()
    assert clone.digest() != before


def test_the_digest_depends_on_every_bit_name_and_shape():
    model = nn.Linear(3, 2)
    arm = TrainingArm(model, torch.optim.SGD(model.parameters(), lr=0.1))
    digest = arm.digest()
    with torch.no_grad():
        model.weight[0, 0] = torch.nextafter(model.weight[0, 0], torch.tensor(9.0))
    assert arm.digest() != digest
    other = nn.Sequential(model)
    assert TrainingArm(other, arm.optimizer).digest() != arm.digest()


def test_the_digest_covers_buffers():
    model = nn.BatchNorm1d(3)
    arm = TrainingArm(model, torch.optim.SGD(model.parameters(), lr=0.1))
    digest = arm.digest()
    model.running_mean[1] += 1.0
    assert arm.digest() != digest


def test_a_seed_that_shares_a_parameter_with_the_host_is_refused(rig, zero_output):
    run = rig("mlp")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4))
    life = run.executor._state.lives["s1"]
    life.module.read = run.arm.model.fc1
    digest = run.arm.digest()
    slot = run.executor._state.slots["span_linear:fc1-fc2"]
    graft = Graft(life.plan, slot, life.module, Blend(config=zero_output, start_step=0), is_isolated=False)
    with pytest.raises(GraftFailed, match=r"shares parameters with the network: read\.weight"):
        run.arm.attach(graft)
    assert run.arm.digest() == digest
    assert len(run.arm.optimizer.param_groups) == 1


def test_torchs_own_schedulers_go_on_beside_a_seeds_groups(rig):
    run = rig("mlp")
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(run.arm.optimizer, lambda step: 0.9**step),
        torch.optim.lr_scheduler.CosineAnnealingLR(run.arm.optimizer, 20),
    ]
    for scheduler in schedulers:
        arm = TrainingArm(run.arm.model, run.arm.optimizer, scheduler)
        run.executor._state.arm = arm
        run.graft("span.linear", "span_linear:fc1-fc2", "s1", width=4, twin=False)
        arm.optimizer.step()
        scheduler.step()
        assert len(scheduler.base_lrs) == len(arm.optimizer.param_groups) == 2
        run.do(run.directive("REMOVE", "s1"))
        scheduler.step()
        assert len(scheduler.base_lrs) == len(arm.optimizer.param_groups) == 1


def test_a_seed_learns_as_the_host_layer_beside_it(rig):
    run = rig("mlp")
    model = run.arm.model
    decayed = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    plain = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
    run.arm.optimizer = torch.optim.AdamW(groups, lr=0.01)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    seed = run.arm.grafts[0].module
    decays = {id(p): group["weight_decay"] for group in run.arm.optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in (seed.read.weight, seed.read.bias, seed.write.weight)] == [0.1, 0.0, 0.1]


def test_the_state_survives_a_weights_only_file(rig):
    run = rig("convnet")
    run.train(3)
    file = io.BytesIO()
    torch.save(run.arm.state_dict(), file)
    run_again = rig("convnet")
    file.seek(0)
    run_again.arm.load_state_dict(torch.load(file, weights_only=True), lambda _: [])
    run_again.step = 3
    run.train(2)
    run_again.train(2)
    assert run.arm.digest() == run_again.arm.digest()


class Counting(nn.Module):
    """A parametrisation that knows how often it was computed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, value):
        self.calls += self.training
        return value


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_attaching_beside_a_parametrised_layer_leaves_its_state(rig, rig_of, toy_task, norm):
    model = rig("mlp").arm.model
    for layer in (model.fc1, model.fc2):
        norm(layer)
        parametrize.register_parametrization(layer, "bias", Counting())
    run = rig_of(model, toy_task)
    run.train(1)
    run.arm.model.train()
    before = {name: tensor.clone() for name, tensor in run.arm.model.state_dict().items()}
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.arm.model.state_dict().items())


def test_a_clone_that_takes_the_hosts_place_lost_nothing(rig):
    run = rig("mlp")
    run.arm.model.fc1.lock = threading.Lock()
    arm = type(run.arm)(run.arm.model, run.arm.optimizer)
    assert arm.clone().unkept() == arm.unkept() == []
    arm.model.fc1.lock = threading.Lock()
    assert arm.unkept() == arm.clone().unkept() == ["fc1.lock"]


@pytest.mark.parametrize("optimizer", ["adafactor", "adam"])
def test_a_cloned_optimiser_knows_what_its_original_knows_outside_of_its_state(rig, optimizer):
    arm = rig("mlp", optimizer=optimizer).arm
    names = {name for name in vars(arm.optimizer) if name.startswith("_") and "hook" not in name}
    copied = vars(arm.clone().optimizer)
    kept = {name for name in names if isinstance(vars(arm.optimizer)[name], bool)}
    assert kept
    assert {name: copied.get(name) for name in kept} == {name: vars(arm.optimizer)[name] for name in kept}
