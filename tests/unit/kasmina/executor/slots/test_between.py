from __future__ import annotations

import torch
from torch import nn

from esper.kasmina.executor.slots.between import CallStep, DropoutStep, KeyedDropout, ModuleStep, copy_between


def test_steps_are_copied_at_the_seeds_width_with_fresh_parameters():
    host = nn.ModuleDict({"bn": nn.BatchNorm2d(5, eps=0.1, momentum=0.3), "act": nn.ReLU(), "pool": nn.MaxPool2d(2)})
    steps = (ModuleStep("bn"), ModuleStep("act"), ModuleStep("pool"), CallStep(torch.flatten, (1,)), DropoutStep(0.5))
    copied = copy_between(host, steps, 3)
    assert copied(torch.randn(2, 3, 4, 4)).shape == (2, 12)
    assert (copied[0].num_features, copied[0].eps, copied[0].momentum) == (3, 0.1, 0.3)
    assert copied[1] is not host["act"]


def test_a_copied_activation_does_not_carry_the_hosts_hooks():
    host = nn.ModuleDict({"act": nn.ReLU()})
    host["act"].register_forward_hook(lambda *_: 1 / 0)
    assert copy_between(host, (ModuleStep("act"),), 2)(torch.ones(1)).item() == 1.0
    assert len(host["act"]._forward_hooks) == 1


def test_keyed_dropout_repeats_its_masks_and_leaves_the_generator_alone():
    dropout = KeyedDropout(0.5, whole_channels=False)
    value = torch.ones(200, 10)
    torch.default_generator.manual_seed(4)
    expected = torch.rand(3)
    torch.default_generator.manual_seed(4)
    dropout.draw = 8
    first, second = dropout(value), dropout(value)
    dropout.draw = 9
    other = dropout(value)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(3), expected)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (first == 0).float().mean() < 0.6


def test_keyed_dropout_drops_whole_channels_and_nothing_in_eval_mode():
    dropout = KeyedDropout(0.5, whole_channels=True)
    dropped = dropout(torch.ones(6, 4, 5))
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped))
    assert torch.equal(dropout.eval()(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))
