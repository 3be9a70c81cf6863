"""What factories share: whole-number parameters, the host's device and dtype, layers that start at zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.slots.layers import CONVOLUTIONS
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind

M = TypeVar("M", bound=nn.Module)


def whole(parameters: Mapping[str, float], name: str) -> int:
    """A whole-number parameter of at least 1."""
    value = parameters.get(name)
    if value is None or value != int(value) or value < 1:
        raise GraftFailed(f"blueprint parameter {name} is {value!r}, expected a whole number of at least 1")
    return int(value)


def placement(host: nn.Module, slot: Slot) -> dict[str, Any]:
    """Device and dtype of the layer that the seed stands beside."""
    near = next(host.get_submodule(slot.write_path).parameters(), None)
    near = next((p for p in host.parameters() if p.is_floating_point()), None) if near is None else near
    return {"device": None if near is None else near.device, "dtype": torch.float32 if near is None else near.dtype}


def zeroed(layer: M) -> M:
    """The layer with its parameters at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def require_kind(slot: Slot, factory: str, *kinds: SlotKind) -> None:
    if slot.kind not in kinds:
        fits = ", ".join(SlotKind.Name(kind) for kind in kinds)
        raise GraftFailed(f"{factory} fits {fits}, but {slot.slot_id} is {SlotKind.Name(slot.kind)}")


def refuse_looking_ahead(slot: Slot, factory: str) -> None:
    """A convolution over positions would show a language model the tokens that it must predict."""
    if slot.is_causal:
        raise GraftFailed(f"{factory} in {slot.slot_id} would read later tokens; a language model can't take it")


def same_convolution(
    slot: Slot, channels_in: int, channels_out: int, *, taps: int, place: dict[str, Any], bias: bool = True
) -> nn.Module:
    """A convolution over the slot's positions that keeps their number."""
    kind: Any = CONVOLUTIONS.get(slot.dims - 2)
    if kind is None:
        raise GraftFailed(f"{slot.slot_id} has {slot.dims - 2} position dimensions, expected 1 to 3")
    convolution: nn.Module = kind(channels_in, channels_out, taps, padding=taps // 2, bias=bias, **place)
    return convolution
