"""Attention heads: the host's own attention over projections of its own, beside it, and folded into it.

The seed is called with what the attention is called with, masks and positions included. It keeps no cache.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.joins import Count, Join, JoiningSeed
from esper.kasmina.executor.blueprints.parts import require_kind, whole, zeroed
from esper.kasmina.executor.slots.arguments import Arguments, leading_tensor
from esper.kasmina.executor.slots.between import KeyedModule
from esper.kasmina.executor.slots.fresh import writing_layer
from esper.kasmina.executor.slots.layers import Side
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


class HeadsSeed(JoiningSeed):
    """More heads of one attention."""

    def __init__(
        self, attention: nn.Module, write: nn.Module, joins: Mapping[str, Join], counts: tuple[Count, ...]
    ) -> None:
        super().__init__(joins, counts)
        self.attention = KeyedModule(attention)
        self.write = write

    def forward(self, call: Arguments) -> Tensor:
        output: Tensor = self.write(leading_tensor(self.attention(*call.positional, **call.named)))
        return output


def span_heads(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """Whole heads of the attention's own size, or whole groups that share keys and values."""
    require_kind(slot, "span.heads", SlotKind.SLOT_KIND_SPAN_HEADS)
    groups, heads = whole(parameters, "heads"), slot.heads
    if heads is None:
        raise GraftFailed(f"{slot.slot_id} is no attention whose heads are known")
    attention, output = host.get_submodule(slot.read_path), host.get_submodule(slot.write_path)
    layers = heads.projections_of(attention, groups)
    joins = {
        f"attention.inner.{projection.name}": Join(path, Side.ROWS, projection.blocks)
        for projection, path in zip(heads.projections, heads.paths(slot.read_path), strict=True)
    }
    return HeadsSeed(
        heads.resized(attention, layers, groups),
        zeroed(writing_layer(output, heads.columns * groups)),
        {**joins, "write": Join(slot.write_path, Side.COLUMNS)},
        tuple((slot.read_path, name, by * groups) for name, by in heads.counts),
    )
