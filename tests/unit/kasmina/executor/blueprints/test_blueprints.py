"""Factories: keyed weights, the host's type, zero output, and agreement with the catalogue."""

from __future__ import annotations

import torch
from torch import nn

from esper.kasmina.executor.blueprints import FACTORIES, build_seed
from esper.kasmina.executor.slots.slot import Slot
from esper.kasmina.executor.stack_slots import STACK_FACTORIES
from esper.leyline import SlotKind
from esper.tolaria.task.models.transformer import CausalTransformer, DecoderStyle
from esper.urza.catalog import Catalog, misfit


def seed(run, factory, slot_id, **parameters):
    slot = run.executor._state.slots[slot_id]
    return build_seed(run.arm.model, slot, factory, parameters, initialization_seed=3)


def test_weights_follow_from_the_initialisation_seed_alone(rig):
    run = rig("convnet")
    slot = "span_conv:conv1-conv2"
    generator = torch.default_generator.get_state()
    first, second = (seed(run, "span.conv", slot, width=3) for _ in range(2))
    assert torch.equal(torch.default_generator.get_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.read.weight.abs().sum() > 0
    assert not first.write.weight.any()
    assert first.write.bias is None


def test_a_seed_has_the_hosts_type_mode_and_layer_settings(rig):
    run = rig("convnet", double=True)
    run.arm.model.eval()
    built = seed(run, "span.conv", "span_conv:conv1-conv2", width=3)
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float64}
    assert not built.training
    assert built.read.padding == run.arm.model.conv1.padding
    assert built.read.bias is None


def test_every_blueprint_of_the_catalogue_has_a_factory_and_a_default_seed_that_fits(rig, rig_of):
    catalog = Catalog.builtin()
    assert {blueprint.blueprint_id for blueprint in catalog.all()} == set(FACTORIES) | STACK_FACTORIES
    kinds = set()
    runs = [rig(host, offers_layers=True) for host in ("mlp", "conv1d", "transformer")]
    attending = CausalTransformer(
        vocabulary=7, context=8, widths=(6,), dropout=0.0, style=DecoderStyle(size=8, heads=2)
    )
    for run in (*runs, rig_of(attending, runs[-1].task)):
        manifest = run.executor.manifest()
        for slot in run.executor._state.slots.values():
            for blueprint in catalog.for_slot(slot.kind):
                if misfit(blueprint, slot.spec(run.arm.model), manifest.task):
                    continue
                parameters = {bound.name: bound.default_value for bound in blueprint.parameters}
                parameters["rank"] = min(parameters.get("rank", 1.0), slot.features)
                built = seed(run, blueprint.blueprint_id, slot.slot_id, **parameters)
                assert all(torch.isfinite(parameter).all() for parameter in built.parameters())
                kinds.add(blueprint.blueprint_id)
    assert kinds == set(FACTORIES)


def test_attention_runs_over_a_grid_of_positions_as_over_one_sequence():
    host = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    slot = Slot(
        slot_id="residual_linear:1-1",
        kind=SlotKind.SLOT_KIND_RESIDUAL_LINEAR,
        read_path="1",
        write_path="1",
        order=0,
        dims=4,
        features=6,
        read_positions=6,
        write_positions=6,
    )
    seed = build_seed(host, slot, "attention.self", {"heads": 2, "head_size": 3}, initialization_seed=3)
    nn.init.normal_(seed.outward.weight)
    grid = torch.randn(2, 2, 3, 6)
    torch.testing.assert_close(seed(grid).flatten(1, 2), seed(grid.flatten(1, 2)))
