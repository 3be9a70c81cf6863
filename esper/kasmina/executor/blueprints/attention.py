"""Self-attention over the positions of one activation, added to it; causal in language models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.parts import placement, require_kind, whole, zeroed
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


class SelfAttention(nn.Module):
    """Normalise, attend, project; b batch, t positions, d features, h heads, k head size.

    Several dimensions of positions are attended over as one. `seen`, bool [b or 1, 1, 1 or t, t], is true where a
    position (of the rows) may attend to another; each may attend to itself, so that none is left without any.
    """

    takes_masks = True

    def __init__(self, norm: nn.Module, inward: nn.Linear, outward: nn.Linear, *, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.norm = norm
        self.inward = inward
        self.outward = outward
        self.heads = heads
        self.is_causal = is_causal

    def forward(self, activation: Tensor, seen: Tensor | None = None) -> Tensor:
        value_btd = activation.flatten(1, -2)
        qkv_3bhtk = self.inward(self.norm(value_btd)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv_3bhtk.unbind(0)
        if seen is None:
            mixed_bhtk = F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        else:
            mixed_bhtk = F.scaled_dot_product_attention(query, key, value, attn_mask=self._over(seen))
        output: Tensor = self.outward(mixed_bhtk.transpose(1, 2).flatten(2))
        return output.view(activation.shape)

    def _over(self, seen: Tensor) -> Tensor:
        positions = seen.size(-1)
        seen_b1tt = seen.expand(-1, -1, positions, positions)
        itself = torch.eye(positions, dtype=torch.bool, device=seen.device)
        return (seen_b1tt.tril() if self.is_causal else seen_b1tt) | itself


class ChannelsLast(nn.Module):
    """Runs a sequence module on [batch, channels, positions...]."""

    takes_masks = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: Tensor, seen: Tensor | None = None) -> Tensor:
        output: Tensor = self.inner(value.flatten(2).transpose(1, 2), seen).transpose(1, 2)
        return output.reshape(value.shape)


def self_attention(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """Whole heads of a fixed size."""
    kinds = SlotKind.SLOT_KIND_RESIDUAL_LINEAR, SlotKind.SLOT_KIND_RESIDUAL_CONV
    require_kind(slot, "attention.self", *kinds)
    if slot.dims < 3:
        raise GraftFailed(f"attention.self needs [batch, positions, features]; {slot.slot_id} has no positions")
    heads, head_size, place = whole(parameters, "heads"), whole(parameters, "head_size"), placement(host, slot)
    inner = SelfAttention(
        nn.LayerNorm(slot.features, **place),
        nn.Linear(slot.features, 3 * heads * head_size, bias=False, **place),
        zeroed(nn.Linear(heads * head_size, slot.features, bias=False, **place)),
        heads=heads,
        is_causal=slot.is_causal,
    )
    return ChannelsLast(inner) if slot.is_conv else inner
