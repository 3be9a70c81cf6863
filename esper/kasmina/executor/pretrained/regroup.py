"""Slots of networks with a configuration: all blocks at once where it has one number for all, none where it has none.

Without that a widened layer could be saved, but not loaded by who has the configuration alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from esper.kasmina.executor.pretrained.config import Pretrained, changes_of, find_pretrained, misfit, raised, shapes_of
from esper.kasmina.executor.slots.between import gates, halves, width_unit
from esper.kasmina.executor.slots.layers import Side, growing_dim
from esper.kasmina.executor.slots.slot import Slot

REMEDY = "with --config-widths loader it can grow, and is exported with a loader"


def regrouped(model: nn.Module, slots: Sequence[Slot]) -> tuple[list[Slot], list[str]]:
    """The slots whose growth the configurations can say, and in words those that are left out."""
    kept, refused = list(slots), []
    for pretrained in find_pretrained(model):
        for slot in [slot for slot in kept if slot.is_span and slot.read_path.startswith(pretrained.prefix)]:
            if slot not in kept or slot.obstacle:
                continue
            whole, members = _whole(model, kept, slot)
            kept = [other for other in kept if other is slot or other.slot_id not in members]
            place = kept.index(slot)
            least, why = _least(model, pretrained, whole)
            if why:
                refused.append(f"{whole.slot_id}: {why}; {REMEDY}")
                del kept[place]
            else:
                kept[place] = replace(whole, least=least)
    return kept, refused


def _whole(model: nn.Module, slots: Sequence[Slot], slot: Slot) -> tuple[Slot, set[str]]:
    """The slot over all blocks, if each has one, and the ids that it stands for; else the slot itself."""
    container = _container(model, slot.read_path)
    if not container or not slot.read_path.startswith(f"{container}.0."):
        return slot, set()
    whole = replace(slot, container=container)
    members = {part.slot_id for part in whole.parts(model)}
    if len(members) > 1 and members <= {other.slot_id for other in slots if not other.obstacle}:
        return replace(whole, slot_id=whole.whole_id), members
    return slot, set()


def _container(model: nn.Module, path: str) -> str:
    """The outermost list of blocks that the path leads through."""
    names = path.split(".")
    for length in range(1, len(names)):
        if isinstance(model.get_submodule(".".join(names[:length])), nn.ModuleList):
            return ".".join(names[:length])
    return ""


def _least(model: nn.Module, pretrained: Pretrained, slot: Slot) -> tuple[int, str]:
    """The least growth that the configuration can say, or why it can say none. Many want heads that divide a size."""
    why = _inexpressible(model, pretrained, slot, 1)
    if why and slot.heads is not None:
        doubled = slot.heads.groups(model.get_submodule(slot.read_path))
        if not _inexpressible(model, pretrained, slot, doubled):
            return doubled, ""
    return 1, why


def refusal(model: nn.Module, slot: Slot, units: int) -> str:
    """Why the configurations can't say that the slot has grown by so many groups or features; empty if they can."""
    if not slot.is_span or slot.obstacle:
        return ""
    over = [found for found in find_pretrained(model) if slot.read_path.startswith(found.prefix)]
    each = 1 if slot.heads is not None else width_unit(model, slot.between)
    reasons = (_inexpressible(model, pretrained, slot, units // each) for pretrained in over)
    return next((f"{slot.slot_id}: {why}; {REMEDY}" for why in reasons if why), "")


def _inexpressible(model: nn.Module, pretrained: Pretrained, slot: Slot, units: int) -> str:
    """Why the configuration can't say that the slot has grown by so many units; empty if it can."""
    wanted, parts = shapes_of(pretrained.network), slot.parts(model)
    for part in parts:
        _grow(model, wanted, pretrained.prefix, part, units)
    each = 1 if slot.heads is not None else width_unit(model, slot.between)
    changes = changes_of(model, parts[0], units * each)
    return misfit(pretrained.network, raised(pretrained.config, changes), wanted)


def _grow(model: nn.Module, shapes: dict[str, tuple[int, ...]], prefix: str, slot: Slot, units: int) -> None:
    """The shapes after the slot has grown by so many units."""
    for path, side, by in _growth(model, slot):
        layer = model.get_submodule(path)
        for name, _ in layer.named_parameters(recurse=False):
            if side is Side.COLUMNS and name != "weight":
                continue
            key, dim = f"{path}.{name}".removeprefix(prefix), growing_dim(layer, name, side)
            shape = list(shapes[key])
            shape[dim] += by * units
            shapes[key] = tuple(shape)


def _growth(model: nn.Module, slot: Slot) -> list[tuple[str, Side, int]]:
    if slot.heads is not None:
        paths = slot.heads.paths(slot.read_path)
        rows = [(path, Side.ROWS, part.rows) for path, part in zip(paths, slot.heads.projections, strict=True)]
        return [*rows, (slot.write_path, Side.COLUMNS, slot.heads.columns)]
    unit = width_unit(model, slot.between)
    beside = [(path, Side.ROWS, unit) for path in gates(slot.between)]
    ends = [(slot.read_path, Side.ROWS, unit * halves(slot.between)), (slot.write_path, Side.COLUMNS, unit)]
    return [*ends, *beside]
