"""What stands between the two layers of a span, and a seed's own copy of it.

A seed's branch is `W2 f(W1 x)` beside the host's `f`; so a seed needs `f` at its own width: its own BatchNorm, its own
dropout masks, the same activation and pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from esper.kasmina.executor.passes.keys import forked_generators
from esper.kasmina.executor.passes.side_pass import device_of
from esper.kasmina.executor.slots.fresh import group_size, like_convolution, reading_layer, without_hooks
from esper.kasmina.executor.slots.layers import is_dropout, kernel_taps, stored_parameter


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


@dataclass(frozen=True, slots=True)
class GateStep:
    """The value times what another layer makes of the same input: gated MLPs."""

    path: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class HalvesStep:
    """The value's two halves, each after steps of its own, multiplied: a gated MLP whose first layers are one."""

    first: tuple[Step, ...] = ()
    second: tuple[Step, ...] = ()


Step = ModuleStep | CallStep | DropoutStep | GateStep | HalvesStep


def moved_step(step: Step, old: str, new: str) -> Step:
    """The same step in another block."""
    if isinstance(step, ModuleStep):
        return ModuleStep(step.path.replace(old, new, 1))
    if isinstance(step, GateStep):
        return GateStep(step.path.replace(old, new, 1), tuple(moved_step(part, old, new) for part in step.steps))
    if isinstance(step, HalvesStep):
        first, second = (tuple(moved_step(part, old, new) for part in steps) for steps in (step.first, step.second))
        return HalvesStep(first, second)
    return step


def halves(steps: Sequence[Step]) -> int:
    """How many of the reading layer's features make one of the width."""
    return 2 if any(isinstance(step, HalvesStep) for step in steps) else 1


def gates(steps: Sequence[Step]) -> list[str]:
    """Layers that read beside the reading layer."""
    return [step.path for step in steps if isinstance(step, GateStep)]


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
        self._key = 0
        # A tensor, because compiled code takes numbers for constants. No buffer: it is no part of the seed's state.
        self._draw = torch.zeros((), dtype=torch.int64)
        self._calls = 0
        self._generators: list[torch.Generator] = []

    @property
    def draw(self) -> int:
        return self._key

    @draw.setter
    def draw(self, value: int) -> None:
        self._key = value
        self._draw.fill_(value)
        self._calls = 0
        for generator in self._generators:
            generator.manual_seed(value)

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """One for each mask of a step, which all begin alike: what a CUDA graph draws from is to be known to it."""
        return tuple(self._generators)

    def _generator(self, device: torch.device) -> torch.Generator:
        """The next mask's, as `draw` has left it."""
        if self._calls == len(self._generators):
            self._generators.append(torch.Generator(device).manual_seed(self.draw))
        generator = self._generators[self._calls]
        self._calls += 1
        return generator

    def forward(self, value: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return value
        if self.rate == 1.0:
            return value * 0.0
        if torch.compiler.is_compiling():
            mask: Tensor = _keyed_mask(value.detach(), self._draw, self.rate, self.whole_channels)
        else:
            mask = _drawn(value, self._generator(value.device), self.rate, self.whole_channels)
        return value * mask


def _mask(value: Tensor, draw: Tensor, rate: float, whole_channels: bool) -> Tensor:
    return _drawn(value, torch.Generator(value.device).manual_seed(int(draw)), rate, whole_channels)


def _drawn(value: Tensor, generator: torch.Generator, rate: float, whole_channels: bool) -> Tensor:
    shape = value.shape[:2] + (1,) * (value.dim() - 2) if whole_channels else value.shape
    mask = torch.rand(shape, generator=generator, device=value.device) >= rate
    return mask.to(value.dtype).div_(1.0 - rate)


# What compiled code calls: to it a generator of its own is no operation.
_keyed_mask = torch.library.custom_op("esper_seeds::keyed_mask", _mask, mutates_args=())


@_keyed_mask.register_fake
def _mask_fake(value: Tensor, draw: Tensor, rate: float, whole_channels: bool) -> Tensor:
    return value.new_empty(value.shape[:2] + (1,) * (value.dim() - 2) if whole_channels else value.shape)


class KeyedModule(nn.Module):
    """A module that may draw: from a key of each step, so that the host's draws are those without the seed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.draw = 0
        self.is_noisy = any(_drops(part) for part in inner.modules())
        """Whether it draws."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        if not self.training or not self.is_noisy:
            return self.inner(*arguments, **named)
        with forked_generators(self.draw, device_of(self.inner)):
            return self.inner(*arguments, **named)


def _drops(module: nn.Module) -> bool:
    """Whether the module drops values, whatever it calls that."""
    rates = [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
    return any(rates) or (is_dropout(module) and bool(module.p))


class Gated(nn.Module):
    """The value times what a layer makes of the seed's input."""

    def __init__(self, read: nn.Module, between: nn.Sequential) -> None:
        super().__init__()
        self.read = read
        self.between = between

    def forward(self, value: Tensor, source: Tensor) -> Tensor:
        product: Tensor = value * self.between(self.read(source))
        return product


class Halves(nn.Module):
    """The product of the two halves of the value."""

    def __init__(self, first: nn.Sequential, second: nn.Sequential) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, value: Tensor) -> Tensor:
        first, second = value.chunk(2, dim=-1)
        product: Tensor = self.first(first) * self.second(second)
        return product


def copy_between(host: nn.Module, steps: Sequence[Step], width: int) -> nn.Sequential:
    """The steps as modules of `width` channels, with fresh parameters and statistics."""
    return nn.Sequential(*(_copy_step(host, step, width) for step in steps))


def _copy_step(host: nn.Module, step: Step, width: int) -> nn.Module:
    if isinstance(step, CallStep):
        return Call(step)
    if isinstance(step, DropoutStep):
        return KeyedDropout(step.rate, whole_channels=False)
    if isinstance(step, GateStep):
        layer = reading_layer(host.get_submodule(step.path), width)
        return Gated(layer, copy_between(host, step.steps, width))
    if isinstance(step, HalvesStep):
        return Halves(*(copy_between(host, part, width) for part in (step.first, step.second)))
    return _copy_module(host.get_submodule(step.path), width)


def _copy_module(module: nn.Module, width: int) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _batch_norm(module, width)
    if isinstance(module, _ConvNd):
        return like_convolution(module, width, width, groups=width // group_size(module))
    if is_dropout(module):
        return KeyedDropout(float(module.p), whole_channels=not isinstance(module, nn.Dropout))  # type: ignore[arg-type]
    return without_hooks(module)


def width_unit(host: nn.Module, steps: Sequence[Step]) -> int:
    """The width grows by multiples of this: by whole groups of the convolutions between."""
    return math.lcm(*(group_size(layer) for layer in _convolutions(host, steps)))


def between_taps(host: nn.Module, steps: Sequence[Step]) -> int:
    """Weights of the convolutions between, for each feature of the width."""
    return sum(kernel_taps(layer) * group_size(layer) for layer in _convolutions(host, steps))


def _convolutions(host: nn.Module, steps: Sequence[Step]) -> list[_ConvNd]:
    modules = [host.get_submodule(step.path) for step in steps if isinstance(step, ModuleStep)]
    return [module for module in modules if isinstance(module, _ConvNd)]


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
