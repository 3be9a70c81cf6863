"""How much memory work holds at once, counted from the tensors that it makes; the same on every device.

A storage counts once, from the operator that makes it until its last holder lets go; what was there before, such as
parameters, doesn't count. What kernels use inside themselves is not seen.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esper.kasmina.executor.contents.storages import has_storage


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts inside its `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.series: list[int] = []
        """Bytes held after each operator."""
        self._bytes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[Any]] = {}

    @property
    def peak_bytes(self) -> int:
        return max(self.series, default=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            self._note(value, is_new=False)
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self._note(value, is_new=True)
        self.series.append(self.live_bytes)
        return result

    def __exit__(self, *error: Any) -> None:
        self._references.clear()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _note(self, value: Any, *, is_new: bool) -> None:
        if not isinstance(value, Tensor) or not has_storage(value):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._bytes:
            return
        self._bytes[key] = storage.nbytes() if is_new else 0
        self.live_bytes += self._bytes[key]
        self._references[key] = weakref.ref(storage, partial(self._gone, key))

    def _gone(self, key: int, _: Any) -> None:
        self._references.pop(key, None)
        self.live_bytes -= self._bytes.pop(key, 0)
