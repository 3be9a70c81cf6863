"""What growth knows of layers: which carry a width, which act on each channel by itself, and how wide they are.

A layer that isn't listed is never assumed to be per channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

CONVOLUTIONS: dict[int, type[_ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh,
    nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid,
)  # fmt: skip

# Per channel where channels are dimension 1, as after a convolution.
POOLS: tuple[type[nn.Module], ...] = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip

ACTIVATION_CALLS: frozenset[Any] = frozenset(
    {
        F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.selu, torch.selu, F.celu, F.gelu, F.silu, F.mish,
        F.hardswish, F.hardtanh, F.hardsigmoid, F.softplus, F.softsign, F.tanh, torch.tanh, F.sigmoid, torch.sigmoid,
        F.logsigmoid, torch.square,
    }
)  # fmt: skip
ACTIVATION_METHODS: dict[str, Callable[..., Any]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "square": torch.square,
}
POOL_CALLS: frozenset[str] = frozenset(
    f"{reach}{kind}_pool{dims}d" for reach in ("", "adaptive_") for kind in ("max", "avg") for dims in (1, 2, 3)
)


class Side(Enum):
    """What of a layer grows with a width: what it writes, what it reads, or channels that it works on one by one."""

    ROWS = "rows"
    COLUMNS = "columns"
    CHANNELS = "channels"


def is_width_layer(module: nn.Module) -> bool:
    """True for the layers between which a width stands: linear and convolution, transposed ones excluded."""
    return is_dense(module) or (is_convolution(module) and not isinstance(module, _ConvTransposeNd))


def is_dense(module: nn.Module) -> bool:
    """True for linear layers, whichever way round their weight lies."""
    return isinstance(module, nn.Linear) or is_turned(module)


def is_turned(module: nn.Module) -> bool:
    """True for Hugging Face's `Conv1D`: a linear layer whose weight is [in, out]."""
    weight = module._parameters.get("weight")
    return type(module).__name__ == "Conv1D" and {"nx", "nf"} <= vars(module).keys() and getattr(weight, "ndim", 0) == 2


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd)


def is_grouped(module: nn.Module) -> bool:
    """True for a convolution in groups that writes as many channels as it reads: its groups can be made more."""
    return isinstance(module, _ConvNd) and module.groups > 1 and module.in_channels == module.out_channels


def is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm)


def holds_channels(module: nn.Module) -> bool:
    """True for what stands between two layers and holds weights or statistics of each channel."""
    return is_batch_norm(module) or is_grouped(module)


def is_dropout(module: nn.Module) -> bool:
    return isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))


def features_in(layer: nn.Module) -> int:
    """Features or channels that the layer reads."""
    return int(_size(layer, "in_features", "nx", "in_channels"))


def features_out(layer: nn.Module) -> int:
    """Features or channels that the layer writes."""
    return int(_size(layer, "out_features", "nf", "out_channels"))


def _size(layer: nn.Module, linear: str, turned: str, convolution: str) -> Any:
    if isinstance(layer, nn.Linear):
        return getattr(layer, linear)
    return getattr(layer, turned if is_turned(layer) else convolution)


def growing_dim(layer: nn.Module, name: str, side: Side) -> int:
    """The dimension of the parameter of this name that grows."""
    if name != "weight" or side is Side.CHANNELS:
        return 0
    return int((side is Side.COLUMNS) != is_turned(layer))


def kernel_taps(layer: nn.Module) -> int:
    """Taps of the layer's kernel over all dimensions; 1 for linear."""
    return math.prod(layer.kernel_size) if isinstance(layer, _ConvNd) else 1


def reshape_obstacle(path: str, layer: nn.Module, *, may_be_grouped: bool = False) -> str:
    """Why the layer's width can't be changed in place; empty if it can."""
    if isinstance(layer, _ConvNd) and layer.groups != 1 and not may_be_grouped:
        return f"{path} is a grouped convolution"
    if parametrize.is_parametrized(layer) or hasattr(layer, "weight_g") or hasattr(layer, "weight_orig"):
        return f"{path} has a parametrised weight"
    if any(not parameter.requires_grad for parameter in layer.parameters(recurse=False)):
        return f"{path} is frozen"
    return ""


def stored_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter of that name, or the one from which it is computed; nothing is computed, so no state moves."""
    if (parameter := module._parameters.get(name)) is not None:
        return parameter
    sources = getattr(module, "parametrizations", {})
    owner, prefix = (sources[name], "original") if name in sources else (module, f"{name}_")
    return next((part for key, part in owner.named_parameters(recurse=False) if key.startswith(prefix)), None)
