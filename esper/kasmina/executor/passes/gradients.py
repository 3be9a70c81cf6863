"""Gradients of a loss that leave every `.grad` as it was, also through re-entrant activation checkpoints.

Such a checkpoint runs a backward pass of its own inside backward, which knows nothing of whose gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

REENTRANT = "CheckpointFunctionBackward"


def gradients(loss: Tensor, wanted: Sequence[Tensor], modules: Sequence[nn.Module]) -> tuple[Tensor | None, ...]:
    """The loss's gradient for each tensor wanted, None where there is none; `modules` are those that took part."""
    if not is_reentrant(loss):
        return torch.autograd.grad(loss, wanted, allow_unused=True)
    parameters = list({id(p): p for module in modules for p in module.parameters()}.values())
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in parameters):
        raise RuntimeError("hooks that act on accumulated gradients don't go with re-entrant checkpoints")
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return tuple(tensor.grad for tensor in wanted)
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def is_reentrant(value: Tensor) -> bool:
    """True if a re-entrant checkpoint took part in the value."""
    pending, seen = [value.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node.name() == REENTRANT:
            return True
        seen.add(node)
        pending += [following for following, _ in node.next_functions]
    return False
