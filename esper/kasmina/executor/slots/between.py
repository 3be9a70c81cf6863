"""What stands between the two layers of a span, and a seed's own copy of it.

A seed's branch is `W2 f(W1 x)` beside the host's `f`; so a seed needs `f` at its own width: its own BatchNorm, its own
dropout masks, the same activation and pooling.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from esper.kasmina.executor.slots.layers import is_dropout, stored_parameter


@dataclass(frozen=True, slots=True)
class ModuleStep:
    """A submodule of the host, by path."""

    path: str


@dataclass(frozen=True, slots=True)
class CallStep:
    """A function with constant arguments, applied to the value."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DropoutStep:
    """Dropout that the host calls as a function."""

    rate: float


Step = ModuleStep | CallStep | DropoutStep


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, step: CallStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self.step.function(value, *self.step.arguments, **self.step.keywords)
        return result


class KeyedDropout(nn.Module):
    """Dropout with masks of its own, so that the host's masks are those that it would draw without the seed.

    `draw` is set before each step; equal draws give equal masks.
    """

    def __init__(self, rate: float, *, whole_channels: bool) -> None:
        super().__init__()
        self.rate = rate
        self.whole_channels = whole_channels
        # A tensor, because compiled code takes numbers for constants. No buffer: it is no part of the seed's state.
        self._draw = torch.zeros((), dtype=torch.int64)

    @property
    def draw(self) -> int:
        return int(self._draw)

    @draw.setter
    def draw(self, value: int) -> None:
        self._draw.fill_(value)

    def forward(self, value: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return value
        if self.rate == 1.0:
            return value * 0.0
        mask = _keyed_mask if torch.compiler.is_compiling() else _mask
        return value * mask(value.detach(), self._draw, self.rate, self.whole_channels)


def _mask(value: Tensor, draw: Tensor, rate: float, whole_channels: bool) -> Tensor:
    shape = value.shape[:2] + (1,) * (value.dim() - 2) if whole_channels else value.shape
    generator = torch.Generator(value.device).manual_seed(int(draw))
    mask = torch.rand(shape, generator=generator, device=value.device) >= rate
    return mask.to(value.dtype).div_(1.0 - rate)


# What compiled code calls: to it a generator of its own is no operation.
_keyed_mask = torch.library.custom_op("esper_seeds::keyed_mask", _mask, mutates_args=())


@_keyed_mask.register_fake
def _mask_fake(value: Tensor, draw: Tensor, rate: float, whole_channels: bool) -> Tensor:
    return value.new_empty(value.shape[:2] + (1,) * (value.dim() - 2) if whole_channels else value.shape)


def copy_between(host: nn.Module, steps: Sequence[Step], width: int) -> nn.Sequential:
    """The steps as modules of `width` channels, with fresh parameters and statistics."""
    return nn.Sequential(*(_copy_step(host, step, width) for step in steps))


def _copy_step(host: nn.Module, step: Step, width: int) -> nn.Module:
    if isinstance(step, CallStep):
        return Call(step)
    if isinstance(step, DropoutStep):
        return KeyedDropout(step.rate, whole_channels=False)
    module = host.get_submodule(step.path)
    if isinstance(module, _BatchNorm):
        return _batch_norm(module, width)
    if is_dropout(module):
        return KeyedDropout(float(module.p), whole_channels=not isinstance(module, nn.Dropout))  # type: ignore[arg-type]
    duplicate = copy.copy(module)
    duplicate.__dict__ = {
        key: value.copy() if isinstance(value, dict) else value for key, value in module.__dict__.items()
    }
    # The host's taps belong to the host's module alone.
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
        duplicate.__dict__[hooks].clear()
    return duplicate


def _batch_norm(module: _BatchNorm, width: int) -> _BatchNorm:
    reference = next((tensor for tensor in (*module.parameters(), *module.buffers())), None)
    weight = stored_parameter(module, "weight")
    return type(module)(
        width,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
        device=None if reference is None else reference.device,
        dtype=None if weight is None else weight.dtype,
    )
