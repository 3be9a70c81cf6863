"""A device that is too small, on the CPU: operators whose results would not fit run out of memory."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esper.kasmina.executor.contents.storages import has_storage


class LimitedMemory(TorchDispatchMode):
    """Counts, inside its `with`, what operators have made and somebody still holds; parked storages are empty.

    What is first seen as an argument, such as a copy in host memory, lies on no device.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.peak_bytes = 0
        self._elsewhere: set[int] = set()
        self._held_bytes = 0
        self._made: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            if not self._is_known(storage):
                self._elsewhere.add(storage._cdata)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if not self._is_known(storage):
                self._elsewhere.discard(storage._cdata)
                self._hold(storage)
        self._check()
        return result

    def _is_known(self, storage: torch.UntypedStorage) -> bool:
        key = storage._cdata
        return (key in self._made and self._made[key]() is not None) or key in self._elsewhere

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size_bytes = storage._cdata, storage.nbytes()
        self._held_bytes += size_bytes
        self._made[key] = weakref.ref(storage, partial(self._let_go, key, size_bytes))

    def _let_go(self, key: int, size_bytes: int, reference: Any) -> None:
        self._held_bytes -= size_bytes
        if self._made.get(key) is reference:
            del self._made[key]

    def _live_bytes(self) -> int:
        """Exactly: what was parked since it was made counts no longer."""
        held = [reference() for reference in list(self._made.values())]
        return sum(storage.nbytes() for storage in held if storage is not None)

    def _check(self) -> None:
        if self.limit_bytes is None or self._held_bytes <= self.limit_bytes:
            self.peak_bytes = max(self.peak_bytes, self._held_bytes)
        elif self._live_bytes() > self.limit_bytes:
            gc.collect()
            if (live_bytes := self._live_bytes()) > self.limit_bytes:
                raise torch.OutOfMemoryError(f"CUDA out of memory. {live_bytes} of {self.limit_bytes} bytes")


def _storages(value: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and has_storage(leaf)]
