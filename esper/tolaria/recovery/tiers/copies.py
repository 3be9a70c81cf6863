"""Copies of a state's tensors, in memory that is used again: fresh memory costs ten times the copying itself.

The state is walked once, then tensors are copied in groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.contents.filling import fill
from esper.kasmina.executor.contents.storages import has_storage

PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
"""What needs no copy."""
Form = tuple[Any, ...]


class Memory:
    """Memory that may be written over, by the form of the tensors whose content can stand there as it is."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._free: dict[Form, list[Tensor]] = {}
        for tensor in {tensor.data_ptr(): tensor for tensor in tensors}.values():
            if has_storage(tensor):
                self._free.setdefault(_form(tensor), []).append(tensor)

    def take(self, tensor: Tensor) -> Tensor | None:
        """Some of it that fits; it is given once."""
        fitting = self._free.get(_form(tensor))
        return fitting.pop() if fitting else None


class Buffers:
    """Memory of one copy of a state in host memory, pinned where the state is on an accelerator."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self.is_pinned = False
        """Whether any of it is filled by an accelerator."""

    def take(self, state: Any) -> Any:
        """A copy of plain containers with tensors; what an earlier one left is written over."""
        old, used = Memory(self._kept), list[Tensor]()

        def target(tensor: Tensor) -> Tensor:
            found = old.take(tensor)
            used.append(_host_memory(tensor) if found is None else found)
            return used[-1]

        copied = copy_of(state, target)
        self._kept = used
        self.is_pinned = any(memory.is_pinned() for memory in used)
        return copied


def copy_of(state: Any, target: Callable[[Tensor], Tensor]) -> Any:
    """Plain containers with copies of their tensors, in memory that `target` gives; one under two names stays one."""
    copies: dict[Form, Tensor] = {}
    pairs: list[tuple[Tensor, Tensor]] = []

    def copy(value: Any) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        if isinstance(value, dict):
            if PLAIN.issuperset(map(type, value.values())):
                return dict(value)
            return {key: item if type(item) in PLAIN else copy(item) for key, item in value.items()}
        if kind in (list, tuple):
            if PLAIN.issuperset(map(type, value)):
                return kind(value)
            return kind([item if type(item) in PLAIN else copy(item) for item in value])
        if not isinstance(value, Tensor):
            return deepcopy(value)
        if not has_storage(value):
            return value.detach().clone()
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies or not value.numel():
            copies[key] = target(value)
            pairs.append((copies[key], value))
        return copies[key]

    copied = copy(state)
    fill(pairs)
    return copied


def size_of(state: Any) -> int:
    """Bytes of all tensors of a state."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(size_of(item) for item in state.values() if type(item) not in PLAIN)
    if type(state) not in (list, tuple):
        return 0
    return sum(size_of(item) for item in state if type(item) not in PLAIN)


def _form(tensor: Tensor) -> Form:
    """With its side: steps that an optimiser counts on the host look like the moments of a scalar parameter."""
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.is_cuda or tensor.is_pinned()


def _host_memory(tensor: Tensor) -> Tensor:
    blank = torch.empty_like(tensor, device="cpu", memory_format=torch.preserve_format)
    return blank.pin_memory() if tensor.is_cuda else blank
