"""Negative control: random weights that never learn. A host adapts around it, so muting it looks like a loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.parts import refuse_looking_ahead, whole
from esper.kasmina.executor.blueprints.residual import residual_conv, residual_linear
from esper.kasmina.executor.blueprints.span import SpanSeed, build_span
from esper.kasmina.executor.slots.slot import Slot


class FrozenBranch(nn.Module):
    """A branch with fixed weights whose output is scaled."""

    def __init__(self, branch: nn.Module, scale: float) -> None:
        super().__init__()
        self.branch = branch.requires_grad_(False)
        self.scale = scale

    def forward(self, value: Tensor) -> Tensor:
        output: Tensor = self.branch(value) * self.scale
        return output


def random_frozen(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
    """A useless seed of the slot's own kind with random last weights, `scale` times the usual size."""
    scale = parameters.get("scale")
    if scale is None or scale <= 0:
        raise GraftFailed(f"blueprint parameter scale is {scale!r}, expected a number above 0")
    branch: nn.Module
    if slot.is_span:
        branch = build_span(host, slot, whole(parameters, "width"))
    elif slot.is_conv:
        refuse_looking_ahead(slot, "control.random_frozen")
        branch = residual_conv(host, slot, parameters)
    else:
        branch = residual_linear(host, slot, parameters)
    _randomise(branch.write if isinstance(branch, SpanSeed) else branch[-1])  # type: ignore[index]
    return FrozenBranch(branch, float(scale))


def _randomise(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else parameter.numel()
            parameter.normal_(0.0, fan_in**-0.5)
