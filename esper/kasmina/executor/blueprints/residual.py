"""Residual seeds: a normalised bottleneck `W2 f(W1 norm(h))` added to the activation that it reads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from esper.kasmina.executor.blueprints.parts import (
    placement,
    refuse_looking_ahead,
    require_kind,
    same_convolution,
    whole,
    zeroed,
)
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


def residual_linear(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """A bottleneck over the features of one activation."""
    require_kind(slot, "residual.linear", SlotKind.SLOT_KIND_RESIDUAL_LINEAR)
    width, place = whole(parameters, "width"), placement(host, slot)
    return nn.Sequential(
        nn.LayerNorm(slot.features, **place),
        nn.Linear(slot.features, width, **place),
        nn.ReLU(),
        zeroed(nn.Linear(width, slot.features, **place)),
    )


def residual_conv(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """A bottleneck of two convolutions over one activation's channels."""
    require_kind(slot, "residual.conv", SlotKind.SLOT_KIND_RESIDUAL_CONV)
    refuse_looking_ahead(slot, "residual.conv")
    width, place = whole(parameters, "width"), placement(host, slot)
    return nn.Sequential(
        nn.GroupNorm(1, slot.features, **place),
        same_convolution(slot, slot.features, width, taps=3, place=place),
        nn.ReLU(),
        zeroed(same_convolution(slot, width, slot.features, taps=3, place=place)),
    )
