"""The cost model against seeds that the executor really builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.executor.blueprints import build_seed
from esper.kasmina.executor.slots import find_slots
from esper.kasmina.executor.trace import trace_forward
from esper.urza.catalog import Catalog, completed, misfit
from esper.urza.cost import cost


def mlp() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)]
    return nn.Sequential(*layers), torch.randn(4, 16)


def cnn() -> tuple[nn.Module, torch.Tensor]:
    convolutions = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(5 * 4 * 4, 3)), torch.randn(4, 1, 8, 8)


def sequence() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8), nn.LayerNorm(8)), torch.randn(4, 5, 8)


@pytest.mark.parametrize("host", [mlp, cnn, sequence])
def test_every_seed_has_the_parameters_that_its_cost_names(host) -> None:  # type: ignore[no-untyped-def]
    model, inputs = host()
    catalog, seen = Catalog.builtin(), set()
    for slot in find_slots(model, trace_forward(model, inputs), named=None, is_causal=False):
        told = slot.spec(model)
        for blueprint in catalog.for_slot(told.kind):
            if misfit(blueprint, told):
                continue
            values = completed(blueprint, {"rank": 2} if blueprint.blueprint_id == "adapter.low_rank" else {})
            seed = build_seed(model, slot, blueprint.blueprint_id, values, initialization_seed=1)
            built = sum(parameter.numel() for parameter in seed.parameters())
            assert cost(blueprint, told, None, values).parameters == built, (blueprint.blueprint_id, told.slot_id)
            seen.add((blueprint.blueprint_id, told.kind))
    assert len(seen) >= 3
