"""Gradients into one buffer, and views of the buffer back.

Handing thousands of tensors to an operator costs more than copying them. A FlattenPlan remembers the tensors of the
last call: a call with the same ones skips that cost, one with others is planned anew, so the result is always theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from esper.kernels._library import check_one_device, fake, operator, refuse_gradients
from esper.kernels._pool import is_same

_flatten_ = operator("flatten_")
_flatten_plan = operator("flatten_plan")
_flatten_planned_ = operator("flatten_planned_")


class FlattenPlan:
    """Belongs to one list of gradients that stay the same tensors from call to call; holds them until `forget`.

    plan = FlattenPlan()
    flatten_(grads, out, plan=plan)
    """

    __slots__ = ("_grads", "_handle", "_options", "_present")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Lets go of the tensors."""
        self._grads: list[Tensor | None] = []
        self._options: tuple[object, ...] = ()
        self._present: tuple[bool, ...] = ()
        self._handle: Tensor | None = None

    def _flatten(
        self, grads: Sequence[Tensor | None], out: Tensor, sizes: Sequence[int] | None, convert: bool
    ) -> tuple[bool, ...]:
        refuse_gradients([out], "flatten_")
        given = grads if isinstance(grads, list) else list(grads)
        options = (out.dtype, out.device, convert, sizes if sizes is None else list(sizes))
        is_known = self._handle is not None and options == self._options and is_same(given, self._grads)
        if is_known and _flatten_planned_(self._handle, out):
            return self._present
        self.forget()
        tensors = _checked(given, out, sizes)
        handle = _flatten_plan(tensors, options[3] or [], out, convert)
        _flatten_planned_(handle, out)
        self._grads, self._options, self._handle = list(given), options, handle
        self._present = _presence(given, tensors)
        return self._present


def flatten_(
    grads: Sequence[Tensor | None],
    out: Tensor,
    *,
    sizes: Sequence[int] | None = None,
    convert: bool = False,
    plan: FlattenPlan | None = None,
) -> tuple[bool, ...]:
    """Writes the gradients one after another into the vector `out`; returns which were present.

    An absent gradient (None) becomes zeros; `sizes`, the number of elements of each, is then needed. `convert` permits
    gradients of another dtype than `out`. `plan` saves time where the same tensors come again.
    """
    if plan is not None and not torch.compiler.is_compiling():
        return plan._flatten(grads, out, sizes, convert)
    tensors = _checked(grads, out, sizes)
    _flatten_(tensors, [] if sizes is None else list(sizes), out, convert)
    return _presence(grads, tensors)


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


def _checked(grads: Sequence[Tensor | None], out: Tensor, sizes: Sequence[int] | None) -> Sequence[Tensor]:
    """The gradients as the operator takes them."""
    if len(grads) == 0 and out.numel() > 0:
        raise RuntimeError("no gradients available for aggregation")
    tensors = present_or_empty(grads, out)
    if sizes is None and tensors is not grads:
        raise RuntimeError("a gradient is absent (None): pass sizes, the number of elements of each gradient")
    refuse_gradients([*tensors, out], "flatten_")
    return tensors


def _presence(grads: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> tuple[bool, ...]:
    return (True,) * len(grads) if tensors is grads else tuple(grad is not None for grad in grads)


def _numel(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


@fake("flatten_")
def _flatten_fake(grads: list[Tensor], sizes: list[int], out: Tensor, convert: bool = False) -> None:
    check_one_device("flatten_", *grads, out)


@fake("flatten_plan")
def _flatten_plan_fake(*_: object) -> Tensor:
    raise RuntimeError("a plan holds tensors that a compiler cannot see: call flatten_ without one")


@fake("flatten_planned_")
def _flatten_planned_fake(*_: object) -> bool:
    raise RuntimeError("a plan holds tensors that a compiler cannot see: call flatten_ without one")
