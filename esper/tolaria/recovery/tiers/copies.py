"""Copies of a state's tensors, in memory that is used again: fresh memory costs ten times the copying itself.

The state is walked once, then tensors are copied in groups, so that a deadline can end it between two of them and
Python is asked once a group, not once a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.passes.storages import has_storage

PIECE_BYTES = 16 * 2**20
"""Of a group, and of a part of a larger tensor."""
PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
"""What needs no copy."""
Form = tuple[Any, ...]


def nothing() -> None:
    """Where no deadline is asked."""


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


def copy_of(state: Any, target: Callable[[Tensor], Tensor], check: Callable[[], None] = nothing) -> Any:
    """Plain containers with copies of their tensors, in memory that `target` gives; one under two names stays one."""
    copies: dict[Form, Tensor] = {}
    pairs: list[tuple[Tensor, Tensor]] = []

    def copy(value: Any) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        if isinstance(value, dict):
            return {key: item if type(item) in PLAIN else copy(item) for key, item in value.items()}
        if kind in (list, tuple):
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
    write(pairs, check)
    return copied


@torch.no_grad()
def write(pairs: Sequence[tuple[Tensor, Tensor]], check: Callable[[], None] = nothing) -> None:
    """Fill each first tensor by its second, and ask between groups of them."""
    check()
    for group in _groups(pairs):
        targets, sources = [target for target, _ in group], [source for _, source in group]
        torch._foreach_copy_(targets, sources, non_blocking=any(each.is_cuda for each in (targets[0], sources[0])))
        check()


def _groups(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Of no more bytes than a piece each; what is larger by itself is cut, where it stands in one row."""
    group, left, places = list[tuple[Tensor, Tensor]](), PIECE_BYTES, None
    for target, source in pairs:
        size = source.nbytes
        if group and (size > left or places != (target.device, source.device)):
            yield group
            group, left = [], PIECE_BYTES
        if size > PIECE_BYTES and source.is_contiguous() and target.is_contiguous():
            each = PIECE_BYTES // source.element_size()
            parts = (torch.split(tensor.view(-1), each) for tensor in (target, source))
            yield from ([pair] for pair in zip(*parts, strict=True))
            continue
        group.append((target, source))
        left, places = left - size, (target.device, source.device)
    if group:
        yield group


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
