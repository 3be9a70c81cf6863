"""A checkpoint restores every phase of a seed's life bit for bit, also into an executor that has gone on."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn

from esper.core.errors import ConfigError


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def folded(run):
    run.graft("span.linear", "span_linear:fc1-fc2", width=8)
    run.train(5)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))


def grafted_with_twin(run):
    folded(run)
    run.graft("span.linear", "span_linear:fc2-fc3", "s2", width=4)
    run.train(3)
    run.executor.execute([run.directive("PROBE", "s2"), run.directive("JUDGE", "s2", look=2, at_step=12)], run.step)


def incubating(run):
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4), run.directive("INCUBATE", duration_steps=12))
    run.train(5)


def permanent_module(run):
    run.graft("residual.linear", "residual_linear:act1-act1", width=4)
    run.train(6)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    run.graft("gate.channel", "residual_linear:act2-act2", "s2")
    run.train(2)


def fading(run):
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    run.train(5)
    run.do(run.directive("FADE", duration_steps=6))
    run.train(2)


def built(run):
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4))


def stacked(run):
    """A stack under judgement, one evaluation made and not collected, one to come."""
    run.stack()
    run.executor.execute([run.directive("JUDGE", look=1, at_step=run.step + at) for at in (1, 6)], run.step)
    run.train(2)


def kept_stack(run):
    run.stack()
    run.train(2)
    run.do(run.directive("DROP_TWIN"))
    run.stack("s2", blocks=1)
    run.train(1)


PHASES = [folded, grafted_with_twin, incubating, permanent_module, fading, built]


def go_on(run):
    """Eight more steps with boundaries; everything that can be seen of them."""
    seen = []
    for _ in range(4):
        run.train(2)
        run.executor.at_boundary(run.step)
        collected = run.executor.collect(run.step)
        messages = (*collected.observations, *collected.reports)
        seen.append([message.SerializeToString(deterministic=True) for message in messages])
    twin = None if run.executor.twin is None else run.executor.twin.digest()
    return seen, run.arm.digest(), twin, run.executor.side_macs, run.executor.seeds, run.executor.macs


HOST_OF = {stacked: "transformer", kept_stack: "transformer"}
EVERY_PHASE = [*PHASES, *HOST_OF]


def host_of(phase):
    return HOST_OF.get(phase, "noisy mlp")


@pytest.mark.parametrize(
    ("phase", "optimizer"), [*((phase, "adamw") for phase in EVERY_PHASE), (grafted_with_twin, "sgd")]
)
def test_a_restored_run_goes_on_bit_for_bit(rig, phase, optimizer):
    run = rig(host_of(phase), optimizer=optimizer)
    run.train(2)
    phase(run)
    state = through_a_file(run.executor.state_dict())
    restored = rig(host_of(phase), optimizer=optimizer)
    restored.executor.load_state_dict(state)
    restored.step = run.step
    assert restored.arm.digest() == run.arm.digest()
    for seed_id in run.executor.seeds:
        assert restored.executor.alpha_of(seed_id) == run.executor.alpha_of(seed_id)
    assert go_on(restored) == go_on(run)


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_run_can_go_back_after_it_has_gone_on(rig, phase):
    run = rig(host_of(phase))
    run.train(2)
    state, step = through_a_file(run.executor.state_dict()), run.step
    topology = run.executor.topology
    phase(run)
    reached = through_a_file(run.executor.state_dict()), run.step
    first = go_on(run)
    run.executor.load_state_dict(reached[0])
    run.step = reached[1]
    assert go_on(run) == first
    run.executor.load_state_dict(state)
    run.step = step
    plain = rig(host_of(phase))
    plain.train(2)
    assert run.arm.digest() == plain.arm.digest()
    assert run.executor.seeds == ()
    assert run.executor.twin is None
    assert run.executor.topology > topology
    run.train(3)
    plain.train(3)
    assert run.arm.digest() == plain.arm.digest()


def test_a_restored_cull_still_ends_in_the_never_grafted_run(rig):
    run = rig("noisy convnet")
    run.train(2)
    run.graft("span.conv", "span_conv:conv1-conv2", width=3)
    run.train(3)
    restored, plain = rig("noisy convnet"), rig("noisy convnet")
    restored.executor.load_state_dict(through_a_file(run.executor.state_dict()))
    restored.step = run.step
    restored.train(2)
    restored.prefix = "later "
    restored.do(restored.directive("INSTALL_TWIN"))
    restored.train(2)
    plain.train(restored.step)
    assert restored.arm.digest() == plain.arm.digest()


def test_an_unknown_format_is_refused(rig):
    run = rig("mlp")
    with pytest.raises(ConfigError, match="expected executor state of format 3"):
        run.executor.load_state_dict({"format": 99})


def test_a_directive_that_was_done_before_the_checkpoint_is_not_done_again(rig):
    run, restored = rig("mlp"), rig("mlp")
    directives = [run.build("span.linear", "span_linear:fc1-fc2", width=4), run.directive("SNAPSHOT_TWIN")]
    run.do(*directives)
    restored.executor.load_state_dict(through_a_file(run.executor.state_dict()))
    assert restored.do(*directives).reports == ()
    assert restored.executor.seeds == ("s1",)


def test_reports_that_nobody_collected_are_kept(rig):
    run, restored = rig("mlp"), rig("mlp")
    run.executor.execute([run.directive("SNAPSHOT_TWIN")], 0)
    restored.executor.load_state_dict(through_a_file(run.executor.state_dict()))
    assert restored.executor.has_evidence
    assert restored.executor.collect(0).reports == run.executor.collect(0).reports


def test_a_folded_network_keeps_its_memory_format(rig, rig_of):
    def run_of():
        torch.manual_seed(2)
        layers = {"conv1": nn.Conv2d(1, 4, 3), "act": nn.ReLU(), "conv2": nn.Conv2d(4, 6, 3), "flatten": nn.Flatten()}
        host = nn.Sequential(OrderedDict(**layers, fc=nn.Linear(24, 5)))
        return rig_of(host.to(memory_format=torch.channels_last), rig("convnet").task)

    run, restored = run_of(), run_of()
    run.graft("span.conv", "span_conv:conv1-conv2", width=3)
    run.train(5)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    run.train(2)
    restored.executor.load_state_dict(through_a_file(run.executor.state_dict()))
    restored.step = run.step
    assert restored.arm.model.conv2.weight.stride() == run.arm.model.conv2.weight.stride()
    assert run.arm.model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert go_on(restored) == go_on(run)


def masked(model):
    mask = torch.arange(model.fc1.weight.numel()).view_as(model.fc1.weight) % 2
    model.fc1.weight.register_hook(lambda gradient: gradient * mask)


def scaled(model):
    calls = 0

    def scale(module, arguments, output):
        nonlocal calls
        calls += module.training
        return output * (1 + calls % 3 / 10) + model.fc3.bias.mean()

    model.fc1.register_forward_hook(scale)


def caching(model):
    def keep(module, arguments, output):
        module.last = output

    model.act1.register_forward_hook(keep)
    model.lock = threading.Lock()


@pytest.mark.parametrize("change", [masked, scaled, caching])
def test_a_cull_ends_in_the_never_grafted_run_whatever_hangs_on_the_host(rig, rig_of, change):
    def run_of():
        made = rig("noisy mlp")
        change(made.arm.model)
        return rig_of(made.arm.model, made.task)

    run, plain = run_of(), run_of()
    run.train(2)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(3)
    run.executor.execute([run.directive("PROBE"), run.directive("JUDGE", look=1)], run.step)
    run.do(run.directive("INSTALL_TWIN"))
    run.train(2)
    plain.train(run.step)
    assert run.arm.digest() == plain.arm.digest()


@pytest.mark.parametrize("change", [masked, scaled, caching])
def test_a_restored_run_goes_on_whatever_hangs_on_the_host(rig, rig_of, change):
    def run_of():
        made = rig("noisy mlp")
        change(made.arm.model)
        return rig_of(made.arm.model, made.task)

    run, restored = run_of(), run_of()
    run.train(2)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(3)
    restored.executor.load_state_dict(through_a_file(run.executor.state_dict()))
    restored.step = run.step
    assert go_on(restored) == go_on(run)
