"""Low-rank adapters: nothing changes at the graft, the merged weight is W + scale B A, names stay."""

from __future__ import annotations

import copy

import pytest
import torch

from esper.core.errors import GraftFailed
from esper.kasmina.executor.fold.merge import add, merge, merge_all, merge_obstacle

SLOT = "linear:fc2-fc2"


def grafted(rig, host="mlp", slot=SLOT, steps=12, **options):
    run = rig(host, offers_layers=True, **options)
    run.train(3)
    before = run.outputs()
    run.graft("adapter.lora", slot, rank=2, alpha=6.0)
    assert torch.equal(run.outputs(), before)
    run.train(steps)
    return run


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize(
    ("host", "slot"), [("mlp", SLOT), ("mlp", "linear:fc1-fc1"), ("transformer", "linear:blocks.1.fc1-blocks.1.fc1")]
)
def test_a_merged_adapter_is_in_the_weight_and_nowhere_else(rig, host, slot, optimizer):
    run = grafted(rig, host, slot, optimizer=optimizer)
    path = slot.partition("-")[0].removeprefix("linear:")
    layer, adapter = run.arm.model.get_submodule(path), run.arm.grafts[0].module
    expected = layer.weight.detach().double() + 3.0 * (adapter.up.weight.double() @ adapter.down.weight.double())
    names, before, memory = list(run.arm.model.state_dict()), run.outputs(), run.arm.optimizer.state[layer.weight]
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert report.folded
    assert torch.allclose(layer.weight.double(), expected, rtol=0, atol=1e-6)
    assert torch.allclose(run.outputs(), before, atol=1e-5)
    assert list(run.arm.model.state_dict()) == names
    assert run.executor.seeds == ()
    assert run.arm.optimizer.state[layer.weight] is memory
    assert all("seed_id" not in group for group in run.arm.optimizer.param_groups)
    run.train(3)


def test_in_float64_the_steps_after_a_merge_are_a_plain_layer_s(rig):
    run = grafted(rig, double=True, optimizer="sgd")
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    plain = rig("mlp", double=True, optimizer="sgd")
    plain.train(15)
    plain.arm.load_state_dict(copy.deepcopy(run.arm.state_dict()), lambda arm: [])
    plain.train(2)
    run.train(2)
    assert run.arm.digest() == plain.arm.digest()


def test_an_adapter_of_a_frozen_layer_learns_on_and_an_export_merges_it(rig):
    run = rig("mlp", offers_layers=True, frozen=("fc2",))
    frozen = run.arm.model.fc2.weight.detach().clone()
    run.graft("adapter.lora", SLOT, rank=2, alpha=6.0)
    run.train(12)
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert not report.folded
    assert report.failure == "kept as a module: fc2 is frozen and the adapter learns on; an export merges it"
    moved = run.arm.grafts[0].module.up.weight.detach().clone()
    run.train(3)
    assert torch.equal(run.arm.model.fc2.weight, frozen)
    assert not torch.equal(run.arm.grafts[0].module.up.weight, moved)
    before = run.outputs()
    assert merge_all(run.arm) == ["s1"]
    assert run.arm.grafts == []
    assert torch.allclose(run.outputs(), before, atol=1e-5)


def test_adapters_stay_modules_where_the_run_says_so(rig):
    run = rig("mlp", offers_layers=True, merges_adapters=False)
    run.graft("adapter.lora", SLOT, rank=2, alpha=6.0)
    run.train(12)
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert report.failure == "kept as a module: adapters stay modules in this run"
    assert merge_all(run.arm) == []


def test_a_cull_gives_the_never_grafted_network(rig):
    run, never = grafted(rig), rig("mlp", offers_layers=True)
    never.train(15)
    run.do(run.directive("INSTALL_TWIN"))
    assert run.arm.digest() == never.arm.digest()


def test_a_merge_that_changes_outputs_is_undone(rig):
    run = grafted(rig)
    digest, calls = run.arm.digest(), iter([run.outputs(), run.outputs() + 1.0])
    with pytest.raises(GraftFailed, match="changed an output by"):
        merge(run.arm, run.arm.grafts[0], lambda: next(calls))
    assert run.arm.digest() == digest
    run.train(1)


def test_during_warm_up_and_below_full_alpha_nothing_is_merged(rig):
    run = grafted(rig, steps=2)
    graft = run.arm.grafts[0]
    assert merge_obstacle(run.arm, graft, run.step) == "its learning-rate warm-up isn't over"
    graft.set_alpha(0.5)
    assert "alpha is 0.5" in merge_obstacle(run.arm, graft, 1000)
    run.do(run.directive("REMOVE"))
    run.graft("span.linear", "span_linear:fc1-fc2", "s2", twin=False, width=2)
    with pytest.raises(GraftFailed, match="no low-rank adapter"):
        add(run.arm.grafts[0], run.arm.model.fc2.weight)


def test_an_alpha_that_would_mute_it_is_refused(rig):
    run = rig("mlp", offers_layers=True)
    assert "alpha is 0.0, expected a number above 0" in run.failure(run.build("adapter.lora", SLOT, rank=2, alpha=0.0))


def test_layers_are_slots_on_request_alone_or_by_name(rig):
    assert not [slot for slot in rig("mlp").executor.manifest().slots if slot.slot_id.startswith("linear")]
    for name in (SLOT, "linear:fc2"):
        found = rig("mlp", slots=(name,)).executor.manifest().slots
        assert [(slot.slot_id, slot.is_foldable, slot.in_features) for slot in found] == [(SLOT, True, 6)]
