from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from esper.core.errors import GraftFailed


def test_a_muted_seed_passes_the_hosts_value_by(rig):
    run = rig("mlp")
    run.graft("residual.linear", "residual_linear:act1-act1", width=4)
    run.train(6)
    graft = run.arm.grafts[0]
    with_seed = run.outputs()
    graft.is_muted = True
    muted = run.outputs()
    graft.is_muted = False
    graft.detach()
    assert torch.equal(run.outputs(), muted)
    graft.attach(run.arm.model, run.arm.grafts)
    assert torch.equal(run.outputs(), with_seed)


def test_a_seed_without_an_input_fails_closed(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    with pytest.raises(GraftFailed, match="fc2 ran before fc1"):
        run.arm.model.fc2(run.task.inputs[:2, :6])


def test_nothing_of_a_pass_is_kept_between_steps(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(1)
    assert run.arm.grafts[0]._input is None
    assert run.arm.grafts[0]._spent is None
    copy.deepcopy(run.arm)


def test_seed_dropout_leaves_the_hosts_masks_alone(rig):
    run, plain = rig("noisy mlp"), rig("noisy mlp")
    masks = {id(run): [], id(plain): []}
    for each in (run, plain):
        record = masks[id(each)].append
        each.arm.model.drop2.register_forward_hook(lambda _, inputs, output, record=record: record(output == 0))
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    run.executor.arm.model.train()
    for each in (run, plain):
        masks[id(each)].clear()
        torch.manual_seed(5)
        each.arm.model.train()
        each.arm.model.act2 = nn.Identity()
        each.arm.model(each.task.probe_inputs())
    assert torch.equal(masks[id(run)][0], masks[id(plain)][0])


def test_the_state_dict_of_the_host_keeps_its_names_while_grafted(rig):
    run = rig("convnet")
    names = list(run.arm.model.state_dict())
    run.graft("span.conv", "span_conv:conv1-conv2", width=3)
    assert list(run.arm.model.state_dict()) == names
