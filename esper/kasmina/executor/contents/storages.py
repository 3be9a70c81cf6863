"""Copies of tensors' memory: in the same layout, and tensors that share memory go on sharing it.

A storage of which the network owns but a small part, such as a data set's, isn't copied whole for a view of it.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn


class Storages:
    """The storages of one copy in the making."""

    def __init__(self) -> None:
        self._copies: dict[int, torch.UntypedStorage] = {}
        self._originals: list[torch.UntypedStorage] = []
        self._owned_bytes: dict[int, int] = {}
        self._noted: set[int] = set()

    def note(self, module: nn.Module) -> None:
        """Note how much of each storage belongs to the module's parameters and buffers."""
        if id(module) in self._noted:
            return
        self._noted.update(id(part) for part in module.modules())
        for tensor in chain(module.parameters(), module.buffers()):
            if has_storage(tensor):
                key = tensor.untyped_storage()._cdata
                self._owned_bytes[key] = self._owned_bytes.get(key, 0) + tensor.nbytes

    def copy(self, tensor: Tensor) -> Tensor:
        """The tensor's values in memory of their own, without gradient."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._copies:
            if max(tensor.nbytes, self._owned_bytes.get(key, 0)) < storage.nbytes() // 2:
                return tensor.detach().clone()
            copied: torch.UntypedStorage = storage.clone()  # type: ignore[no-untyped-call]
            self._copies[key] = copied
            self._originals.append(storage)  # a key means a storage only as long as it lives
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return empty.set_(self._copies[key], tensor.storage_offset(), tensor.size(), tensor.stride())


def has_storage(tensor: Tensor) -> bool:
    """Whether the tensor is nothing but strided memory of its own device."""
    if (
        (type(tensor) is not Tensor and nn.parameter.is_lazy(tensor))
        or tensor.layout != torch.strided
        or tensor.device.type == "meta"
    ):
        return False
    return not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.is_inference())
