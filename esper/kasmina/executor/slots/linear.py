"""Slots of single linear layers: a low-rank adapter reads such a layer's input and adds to its output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import nn
from torch.nn.utils import parametrize

from esper.core.enums import short_name
from esper.kasmina.executor.passes.trace import ForwardTrace
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind

PREFIX = f"{short_name(SlotKind, SlotKind.SLOT_KIND_LINEAR).lower()}:"


def linear_slots(model: nn.Module, trace: ForwardTrace) -> Iterator[Slot]:
    """One for each linear layer, frozen ones too."""
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for visit in trace:
        layer, shapes = model.get_submodule(visit.path), trace.shapes(visit.path)
        if not isinstance(layer, nn.Linear) or not shapes or len(shapes[0]) < 2:
            continue
        positions = sum(math.prod(shape[1:-1]) for shape in shapes)
        yield Slot(
            slot_id=f"{PREFIX}{visit.path}-{visit.path}",
            kind=SlotKind.SLOT_KIND_LINEAR,
            read_path=visit.path,
            write_path=visit.path,
            order=0,
            dims=len(shapes[0]),
            features=layer.out_features,
            read_positions=positions,
            write_positions=positions,
            is_repeated=len(shapes) > 1,
            obstacle=_obstacle(visit.path, layer, owners),
        )


def linear_slot(model: nn.Module, trace: ForwardTrace, name: str) -> Slot | None:
    """The slot that a user names "linear:PATH" or by its whole id; None where there is none."""
    path = name.removeprefix(PREFIX)
    slots = {slot.slot_id: slot for slot in linear_slots(model, trace)}
    return slots.get(name) or slots.get(f"{PREFIX}{path}-{path}")


def unmerged(slot: Slot) -> Slot:
    """The slot in a run whose adapters stay modules."""
    if slot.kind != SlotKind.SLOT_KIND_LINEAR or slot.obstacle:
        return slot
    return replace(slot, obstacle="adapters stay modules in this run")


def _obstacle(path: str, layer: nn.Linear, owners: dict[int, int]) -> str:
    """Why nothing can be merged into its weight; empty if it can."""
    if parametrize.is_parametrized(layer) or not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return f"{path} has a parametrised weight"
    return f"{path} shares its weight with another layer" if owners[id(layer.weight)] > 1 else ""
