"""Structural edits of a live model: parameters change their shape, names and optimiser membership stay.

A parameter whose shape changes becomes a new object, because gradient accumulators remember shapes. Every edit
returns what undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from esper.kasmina.executor.slots.layers import is_batch_norm

Undo = Callable[[], None]


def replace_parameter(
    module: nn.Module, name: str, value: Tensor, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Undo:
    """Puts `value` where the parameter was, in the module and in the optimiser, with `state` as its optimiser state."""
    old = module.get_parameter(name)
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    place = _place(optimizer, old)
    setattr(module, name, new)
    old_state = optimizer.state.pop(old, None)
    if place is not None:
        place[0][place[1]] = new
    if state:
        optimizer.state[new] = dict(state)

    def undo() -> None:
        setattr(module, name, old)
        optimizer.state.pop(new, None)
        if place is not None:
            place[0][place[1]] = old
        if old_state is not None:
            optimizer.state[old] = old_state

    return undo


def _place(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[list[Tensor], int] | None:
    for group in optimizer.param_groups:
        for index, member in enumerate(group["params"]):
            if member is parameter:
                return group["params"], index
    return None


def set_sizes(module: nn.Module) -> None:
    """Makes the module's size attributes agree with its weight."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd):
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif is_batch_norm(module):
        module.num_features = weight.shape[0]  # type: ignore[assignment]


def adopt_shapes(model: nn.Module, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter and buffer the shape that it has in `tensors`; values are loaded afterwards."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        changed = False
        for name, parameter in list(module.named_parameters(recurse=False)):
            target = tensors.get(prefix + name)
            if target is not None and target.shape != parameter.shape:
                replace_parameter(module, name, parameter.new_empty(target.shape), optimizer, {})
                changed = True
        for name, buffer in list(module.named_buffers(recurse=False)):
            target = tensors.get(prefix + name)
            if target is not None and target.shape != buffer.shape:
                setattr(module, name, buffer.new_empty(target.shape))
                changed = True
        if changed:
            set_sizes(module)
