"""Low-rank adapter: `B A h` added to the activation that it reads, without a non-linearity."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.parts import placement, require_kind, same_convolution, whole, zeroed
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


def low_rank(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """A linear map of small rank over features, or over channels at each position."""
    require_kind(slot, "adapter.low_rank", SlotKind.SLOT_KIND_RESIDUAL_LINEAR, SlotKind.SLOT_KIND_RESIDUAL_CONV)
    rank, place = whole(parameters, "rank"), placement(host, slot)
    if rank > slot.features:
        raise GraftFailed(f"rank {rank} exceeds the {slot.features} features of {slot.slot_id}")
    if slot.is_conv:
        down = same_convolution(slot, slot.features, rank, taps=1, place=place, bias=False)
        return nn.Sequential(down, zeroed(same_convolution(slot, rank, slot.features, taps=1, place=place, bias=False)))
    down = nn.Linear(slot.features, rank, bias=False, **place)
    return nn.Sequential(down, zeroed(nn.Linear(rank, slot.features, bias=False, **place)))
