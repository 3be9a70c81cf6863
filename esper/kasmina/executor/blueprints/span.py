"""Span seeds: `W2 f(W1 x)` beside the host's own branch, which is a wider layer k and folds into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from esper.kasmina.executor.blueprints.parts import placement, require_kind, whole, zeroed
from esper.kasmina.executor.slots.between import ModuleStep, copy_between
from esper.kasmina.executor.slots.layers import is_batch_norm, stored_parameter
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


class SpanSeed(nn.Module):
    """Layer k's and layer k+1's shares for the new width, with the host's steps between at that width.

    `twins_of` names the host's module that each of the seed's stands beside: its parameters learn as that one's do,
    and a fold joins the two.
    """

    def __init__(self, read: nn.Module, between: nn.Sequential, write: nn.Module, twins_of: Mapping[str, str]) -> None:
        super().__init__()
        self.read = read
        self.between = between
        self.write = write
        self.twins_of = dict(twins_of)

    def forward(self, value: Tensor) -> Tensor:
        output: Tensor = self.write(self.between(self.read(value)))
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
    place = placement(host, slot)
    read, write = host.get_submodule(slot.read_path), host.get_submodule(slot.write_path)
    return SpanSeed(
        _reading(read, width, place),
        copy_between(host, slot.between, width),
        zeroed(_writing(write, width * slot.columns, place)),
        _twins(host, slot),
    )


def _reading(layer: nn.Module, width: int, place: dict[str, Any]) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, width, bias=stored_parameter(layer, "bias") is not None, **place)
    conv = cast(_ConvNd, layer)
    return _like(conv, conv.in_channels, width, stored_parameter(conv, "bias") is not None, place)


def _writing(layer: nn.Module, features: int, place: dict[str, Any]) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(features, layer.out_features, bias=False, **place)
    conv = cast(_ConvNd, layer)
    return _like(conv, features, conv.out_channels, False, place)


def _like(conv: _ConvNd, channels_in: int, channels_out: int, bias: bool, place: dict[str, Any]) -> nn.Module:
    make = cast(Any, type(conv))
    return cast(
        nn.Module,
        make(
            channels_in,
            channels_out,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            padding_mode=conv.padding_mode,
            bias=bias,
            **place,
        ),
    )


def _twins(host: nn.Module, slot: Slot) -> dict[str, str]:
    twins = {"read": slot.read_path, "write": slot.write_path}
    steps: Sequence[object] = slot.between
    for index, step in enumerate(steps):
        if isinstance(step, ModuleStep) and is_batch_norm(host.get_submodule(step.path)):
            twins[f"between.{index}"] = step.path
    return twins
