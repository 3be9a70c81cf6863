"""New layers like the host's, at the width of a seed."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from esper.kasmina.executor.slots.layers import features_in, features_out, is_turned, stored_parameter


class Turned(nn.Module):
    """A linear layer whose weight is [in, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t().contiguous())
        self.bias = linear.bias

    @property
    def in_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, value: Tensor) -> Tensor:
        product = value @ self.weight
        return product if self.bias is None else product + self.bias


def group_size(convolution: _ConvNd) -> int:
    """Channels of one group."""
    return convolution.out_channels // convolution.groups


def reading_layer(layer: nn.Module, width: int) -> nn.Module:
    """A new layer that reads what this one reads and writes `width`."""
    return like(layer, features_in(layer), width, has_bias=stored_parameter(layer, "bias") is not None)


def writing_layer(layer: nn.Module, features: int) -> nn.Module:
    """A new layer that writes what this one writes and reads `features`; it has no bias."""
    return like(layer, features, features_out(layer), has_bias=False)


def like(layer: nn.Module, features: int, width: int, *, has_bias: bool) -> nn.Module:
    """A linear layer or convolution like this one, of other sizes and fresh weights."""
    if isinstance(layer, _ConvNd):
        return like_convolution(layer, features, width, has_bias=has_bias)
    linear = nn.Linear(features, width, bias=has_bias, **_placement(layer))
    return Turned(linear) if is_turned(layer) else linear


def like_convolution(
    layer: _ConvNd, channels_in: int, channels_out: int, *, groups: int = 1, has_bias: bool | None = None
) -> nn.Module:
    make: Any = type(layer)
    if has_bias is None:
        has_bias = stored_parameter(layer, "bias") is not None
    convolution: nn.Module = make(
        channels_in,
        channels_out,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=groups,
        padding_mode=layer.padding_mode,
        bias=has_bias,
        **_placement(layer),
    )
    return convolution


def _placement(layer: nn.Module) -> dict[str, Any]:
    weight = stored_parameter(layer, "weight")
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


def without_hooks(module: nn.Module) -> nn.Module:
    """A copy of the module alone, of which nothing hangs on the host's."""
    duplicate = copy.copy(module)
    duplicate.__dict__ = {
        key: value.copy() if isinstance(value, dict) else value for key, value in module.__dict__.items()
    }
    # The host's taps belong to the host's module alone.
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
        duplicate.__dict__[hooks].clear()
    return duplicate
