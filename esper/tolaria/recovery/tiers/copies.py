"""Copies of a state's tensors, in memory that is used again: fresh memory costs ten times the copying itself.

Copies go piece by piece, so that a deadline can end them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.passes.storages import has_storage

PIECE_BYTES = 16 * 2**20
Target = Callable[[Tensor, str], Tensor]
"""Memory for a copy of the tensor at a path of the state."""


def nothing() -> None:
    """Where no deadline is asked."""


class Buffers:
    """Memory of one copy of a state in host memory, pinned where the state is on an accelerator."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    @property
    def is_pinned(self) -> bool:
        """Whether any of it is filled by an accelerator."""
        return any(memory.is_pinned() for memory in self._kept.values())

    def take(self, state: Any) -> Any:
        """A copy of plain containers with tensors; what an earlier one left is written over."""
        used: dict[str, Tensor] = {}

        def target(tensor: Tensor, path: str) -> Tensor:
            old = self._kept.get(path)
            used[path] = old if old is not None and fits(old, tensor) else _host_memory(tensor)
            return used[path]

        copied = copy_of(state, target)
        self._kept = used
        return copied


def copy_of(state: Any, target: Target, check: Callable[[], None] = nothing) -> Any:
    """Plain containers with copies of their tensors; one memory under two names stays one."""
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copy(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: copy(item, f"{path}/{key}") for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(copy(item, f"{path}/{index}") for index, item in enumerate(value))
        if not isinstance(value, Tensor):
            return deepcopy(value)
        if not has_storage(value) or value.layout != torch.strided:
            return value.detach().clone()
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.dtype, value.shape, value.stride())
        if key not in copies or not value.numel():
            copies[key] = target(value, path)
            write(copies[key], value.detach(), check)
        return copies[key]

    return copy(state, "")


@torch.no_grad()
def write(target: Tensor, source: Tensor, check: Callable[[], None] = nothing) -> None:
    """Fill a tensor, and ask between its pieces."""
    check()
    size_bytes = source.numel() * source.element_size()
    if size_bytes <= PIECE_BYTES or not (source.is_contiguous() and target.is_contiguous()):
        target.copy_(source, non_blocking=source.is_cuda or target.is_cuda)
        return
    each = PIECE_BYTES // source.element_size()
    pieces = torch.split(target.view(-1), each), torch.split(source.view(-1), each)
    for into, part in zip(*pieces, strict=True):
        check()
        into.copy_(part, non_blocking=source.is_cuda or target.is_cuda)


def fits(memory: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor's content can stand there as it is, on whatever device."""
    return (
        has_storage(memory)
        and memory.layout == tensor.layout
        and memory.dtype == tensor.dtype
        and memory.shape == tensor.shape
        and memory.stride() == tensor.stride()
    )


def size_of(state: Any) -> int:
    """Bytes of all tensors of a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(size_of, state.values()))
    return sum(map(size_of, state)) if type(state) in (list, tuple) else 0


def _host_memory(tensor: Tensor) -> Tensor:
    blank = torch.empty_like(tensor, device="cpu", memory_format=torch.preserve_format)
    return blank.pin_memory() if tensor.is_cuda else blank
