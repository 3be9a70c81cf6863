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

from esper.core.errors import GraftFailed
from esper.kasmina.executor.contents.clone import TENSOR_HOOKS
from esper.kasmina.executor.slots.layers import is_batch_norm, is_grouped, is_turned

Undo = Callable[[], None]


def replace_parameter(
    module: nn.Module, name: str, value: Tensor, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Undo:
    """Puts `value` where the parameter was, in the module and in the optimiser, with `state` as its optimiser state.

    What hangs on the parameter moves along. Raises GraftFailed where one of its hooks can't take the new shape.
    """
    old = module.get_parameter(name)
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    move_attachments(old, new)
    refuse_unfit_hooks(new, name)
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


def move_attachments(old: Tensor, new: Tensor) -> None:
    """Attributes and hooks of one tensor go on hanging on another; handles that remove a hook keep their hold."""
    vars(new).update(vars(old))
    for hooks in TENSOR_HOOKS:
        if getattr(old, hooks, None):
            setattr(new, hooks, getattr(old, hooks))


def refuse_unfit_hooks(parameter: nn.Parameter, name: str) -> None:
    """Try each gradient hook: one that knows a shape by heart would end the run in its next backward pass."""
    for hook in (parameter._backward_hooks or {}).values():
        try:
            returned = hook(torch.zeros_like(parameter.data))
        except Exception as error:  # a hook is the user's own, and may fail in any way
            why = str(error).partition("\n")[0]
            raise GraftFailed(
                f"a gradient hook on {name} can't take the shape {list(parameter.shape)}: {why}"
            ) from error
        if returned is not None and returned.shape != parameter.shape:
            raise GraftFailed(f"a gradient hook on {name} gives {list(returned.shape)} for {list(parameter.shape)}")


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
    elif is_turned(module):
        module.nx, module.nf = weight.shape  # type: ignore[assignment]
    elif isinstance(module, _ConvNd):
        if is_grouped(module):  # groups keep their size and become more
            module.groups = weight.shape[0] * module.groups // module.out_channels
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif is_batch_norm(module):
        module.num_features = weight.shape[0]  # type: ignore[assignment]


def adopt_shapes(model: nn.Module, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter and buffer the shape and layout that it has in `tensors`; values are loaded afterwards."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        changed = False
        for name, parameter in list(module.named_parameters(recurse=False)):
            target = tensors.get(prefix + name)
            if target is not None and target.shape != parameter.shape:
                replace_parameter(module, name, _empty_like(target, parameter), optimizer, {})
                changed = True
            elif target is not None and not _has_layout_of(parameter, target):
                parameter.data = _empty_like(target, parameter)
        for name, buffer in list(module.named_buffers(recurse=False)):
            target = tensors.get(prefix + name)
            if target is not None and target.shape != buffer.shape:
                setattr(module, name, _empty_like(target, buffer))
                changed = True
            elif target is not None and not _has_layout_of(buffer, target):
                buffer.data = _empty_like(target, buffer)
        if changed:
            set_sizes(module)


def _has_layout_of(tensor: Tensor, target: Tensor) -> bool:
    """Whether both run through memory in the same order; strides of single rows mean nothing."""
    if tensor.layout != torch.strided or target.layout != torch.strided:
        return True
    strides = zip(tensor.shape, tensor.stride(), target.stride(), strict=True)
    return all(size <= 1 or mine == theirs for size, mine, theirs in strides)


def _empty_like(target: Tensor, tensor: Tensor) -> Tensor:
    """Memory of the target's shape and layout, of the tensor's type and on its device."""
    return torch.empty_like(target, dtype=tensor.dtype, device=tensor.device, memory_format=torch.preserve_format)
