"""Low-rank adapter of one linear layer: `scale * B A x` beside `W x`, with B zero at first (arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.parts import placement, require_kind, whole, zeroed
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


class LowRank(nn.Module):
    """`scale * up(down(x))`; both learn as the layer at `path` does, where that learns."""

    def __init__(self, down: nn.Linear, up: nn.Linear, *, scale: float, path: str) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.scale = scale
        self.twins_of = {"down": path, "up": path}

    def forward(self, value: Tensor) -> Tensor:
        output: Tensor = self.up(self.down(value)) * self.scale
        return output

    def product(self) -> Tensor:
        """What it adds to the layer's weight, computed in float64: [out, in]."""
        up, down = self.up.weight.detach().double(), self.down.weight.detach().double()
        return torch.mul(up @ down, self.scale)


def low_rank_layer(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """An adapter of some rank, scaled by alpha / rank."""
    require_kind(slot, "adapter.lora", SlotKind.SLOT_KIND_LINEAR)
    rank, alpha, place = whole(parameters, "rank"), parameters.get("alpha"), placement(host, slot)
    layer = host.get_submodule(slot.write_path)
    if not isinstance(layer, nn.Linear):
        raise GraftFailed(f"{slot.write_path} is no linear layer: an adapter.lora has nothing to stand beside")
    if alpha is None or alpha <= 0:
        raise GraftFailed(f"blueprint parameter alpha is {alpha!r}, expected a number above 0")
    down = nn.Linear(layer.in_features, rank, bias=False, **place)
    up = zeroed(nn.Linear(rank, layer.out_features, bias=False, **place))
    return LowRank(down, up, scale=alpha / rank, path=slot.write_path)
