"""Channel gate: scales each channel of the activation that it reads by one learned factor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esper.kasmina.executor.blueprints.parts import placement, require_kind
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


class ChannelGain(nn.Module):
    """`gain * h`, one gain a channel, zero at first."""

    def __init__(self, channels: int, position_dims: int, *, device: torch.device | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels, *([1] * position_dims), device=device, dtype=dtype))

    def forward(self, value: Tensor) -> Tensor:
        return value * self.gain


def channel_gate(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """One gain for each feature or channel; it has no parameters to choose."""
    require_kind(slot, "gate.channel", SlotKind.SLOT_KIND_RESIDUAL_LINEAR, SlotKind.SLOT_KIND_RESIDUAL_CONV)
    return ChannelGain(slot.features, slot.dims - 2 if slot.is_conv else 0, **placement(host, slot))
