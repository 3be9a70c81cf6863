"""Gradients into one buffer, and views of the buffer back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from esper.kernels._library import fake, operator, refuse_gradients

_flatten_ = operator("flatten_")


def flatten_(
    grads: Sequence[Tensor | None], out: Tensor, *, sizes: Sequence[int] | None = None, convert: bool = False
) -> tuple[bool, ...]:
    """Writes the gradients one after another into the vector `out`; returns which were present.

    An absent gradient (None) becomes zeros; `sizes`, the number of elements of each, is then needed. `convert` permits
    gradients of another dtype than `out`.
    """
    if len(grads) == 0 and out.numel() > 0:
        raise RuntimeError("no gradients available for aggregation")
    tensors = present_or_empty(grads, out)
    is_complete = tensors is grads
    if sizes is None and not is_complete:
        raise RuntimeError("a gradient is absent (None): pass sizes, the number of elements of each gradient")
    refuse_gradients(tensors, "flatten_")
    _flatten_(tensors, [] if sizes is None else list(sizes), out, convert)
    return (True,) * len(grads) if is_complete else tuple(grad is not None for grad in grads)


def unflatten(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Views of the vector `flat`, one of each shape, in order."""
    numels = [_numel(shape) for shape in shapes]
    if sum(numels) != flat.numel():
        raise RuntimeError(f"flat gradient has {flat.numel()} elements but {sum(numels)} were expected")
    offsets = accumulate(numels, initial=0)
    return [
        flat[offset : offset + numel].view(torch.Size(shape))
        for offset, numel, shape in zip(offsets, numels, shapes, strict=False)
    ]


def present_or_empty(grads: Sequence[Tensor | None], like: Tensor) -> Sequence[Tensor]:
    """The operators' way to say that a gradient is absent: an empty tensor. `grads` itself if none is."""
    present = [grad for grad in grads if grad is not None]
    if len(present) == len(grads):
        return cast("Sequence[Tensor]", grads)
    absent = like.new_empty(0)
    return [absent if grad is None else grad for grad in grads]


def _numel(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


@fake("flatten_")
def _flatten_fake(grads: list[Tensor], sizes: list[int], out: Tensor, convert: bool = False) -> None:
    return None
