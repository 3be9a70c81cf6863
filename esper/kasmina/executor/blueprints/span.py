"""Span seeds: `W2 f(W1 x)` beside the host's own branch, which is a wider layer k and folds into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.joins import Count, Join, JoiningSeed
from esper.kasmina.executor.blueprints.parts import require_kind, whole, zeroed
from esper.kasmina.executor.pretrained.config import FIELDS
from esper.kasmina.executor.slots.between import Gated, GateStep, ModuleStep, Step, copy_between, halves, width_unit
from esper.kasmina.executor.slots.fresh import reading_layer, writing_layer
from esper.kasmina.executor.slots.layers import Side, features_in, holds_channels
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


class SpanSeed(JoiningSeed):
    """Layer k's and layer k+1's shares for the new width, with the host's steps between at that width."""

    def __init__(
        self,
        read: nn.Module,
        between: nn.Sequential,
        write: nn.Module,
        joins: Mapping[str, Join],
        counts: Sequence[Count] = (),
    ) -> None:
        super().__init__(joins, counts)
        self.read = read
        self.between = between
        self.write = write

    def forward(self, value: Tensor) -> Tensor:
        hidden: Tensor = self.read(value)
        for part in self.between:
            hidden = part(hidden, value) if isinstance(part, Gated) else part(hidden)
        output: Tensor = self.write(hidden)
        return output


def span_linear(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """More hidden features between two linear layers."""
    require_kind(slot, "span.linear", SlotKind.SLOT_KIND_SPAN_LINEAR)
    return build_span(host, slot, whole(parameters, "width"))


def span_conv(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """More channels between two convolutions, or between a convolution and the linear layer that reads it flat."""
    require_kind(slot, "span.conv", SlotKind.SLOT_KIND_SPAN_CONV, SlotKind.SLOT_KIND_SPAN_CONV_LINEAR)
    return build_span(host, slot, whole(parameters, "width"))


def build_span(host: nn.Module, slot: Slot, width: int) -> SpanSeed:
    """A span of the given width; its output is zero and it has no output bias."""
    if width % (unit := width_unit(host, slot.between)):
        raise GraftFailed(f"{slot.slot_id} grows by whole groups of {unit} channels; a width of {width} is none")
    read, write = host.get_submodule(slot.read_path), host.get_submodule(slot.write_path)
    blocks = halves(slot.between)
    return SpanSeed(
        reading_layer(read, blocks * width),
        copy_between(host, slot.between, width),
        zeroed(writing_layer(write, width * slot.columns)),
        {
            "read": Join(slot.read_path, Side.ROWS, blocks),
            "write": Join(slot.write_path, Side.COLUMNS),
            **dict(_joins(host, slot.between, "between")),
        },
        list(_counts(host, slot, width)),
    )


def _counts(host: nn.Module, slot: Slot, width: int) -> Iterator[Count]:
    """What the module that holds layer k notes of the width."""
    path, now = slot.read_path.rpartition(".")[0], features_in(host.get_submodule(slot.write_path)) // slot.columns
    holder = vars(host.get_submodule(path))
    yield from (
        (path, name, width) for name in FIELDS["width"] if type(holder.get(name)) is int and holder[name] == now
    )


def _joins(host: nn.Module, steps: Sequence[Step], prefix: str) -> Iterator[tuple[str, Join]]:
    """Of what stands between, the modules that hold something for each channel."""
    for index, step in enumerate(steps):
        place = f"{prefix}.{index}"
        if isinstance(step, GateStep):
            yield f"{place}.read", Join(step.path, Side.ROWS)
            yield from _joins(host, step.steps, f"{place}.between")
        elif isinstance(step, ModuleStep) and holds_channels(host.get_submodule(step.path)):
            yield place, Join(step.path, Side.CHANNELS)
