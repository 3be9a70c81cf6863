"""An arm that waits in host memory: its storages are empty on their device and come back bit for bit.

Tensors stay what they are, views, ties and optimiser state included; nothing may read them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.contents.storages import has_storage
from esper.kasmina.executor.graft.arm import TrainingArm


class Parked:
    """Contents of storages that wait; none at first."""

    def __init__(self) -> None:
        self._contents: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    @property
    def size_bytes(self) -> int:
        return sum(content.nbytes() for _, content in self._contents.values())

    def take(self, arm: TrainingArm, *, beside: TrainingArm) -> None:
        """Let the arm wait, as far as it doesn't already; what `beside` owns too stays where it is.

        So does what NumPy has seen, on the CPU alone: torch never lets go of that.
        """
        shared = storages(tensors(beside))
        found = storages(tensors(arm)).items()
        taken = {key: storage for key, storage in found if key not in shared | self._contents and storage.resizable()}
        copies = {key: _on_host(storage) for key, storage in taken.items()}
        for key, storage in taken.items():
            self._contents[key] = (storage, copies[key])
            storage.resize_(0)

    def put_back(self) -> None:
        """The arm is again as it was; what can't be put back for lack of memory waits on."""
        for key, (storage, content) in list(self._contents.items()):
            storage.resize_(content.nbytes())
            storage.copy_(content)
            del self._contents[key]


def empty(arm: TrainingArm, *, beside: TrainingArm) -> None:
    """Give back the memory of an arm that nobody wants any more, whoever still holds its tensors."""
    shared = storages(tensors(beside))
    for key, storage in storages(tensors(arm)).items():
        if key not in shared and storage.resizable():
            storage.resize_(0)


def copied_to_host(value: Any) -> Any:
    """Plain containers with copies of their tensors in host memory; what shares memory goes on sharing it."""
    return _copied(value, {})


def _copied(value: Any, copies: dict[int, torch.UntypedStorage]) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item, copies) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item, copies) for item in value)
    if not isinstance(value, Tensor):
        return value
    if not has_storage(value):
        return value.detach().clone().cpu()
    storage = value.untyped_storage()
    if storage._cdata not in copies:
        copies[storage._cdata] = _on_host(storage)
    blank = torch.empty(0, dtype=value.dtype)
    return blank.set_(copies[storage._cdata], value.storage_offset(), value.size(), value.stride())


def _on_host(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    content = torch.UntypedStorage(storage.nbytes(), device="cpu")  # type: ignore[no-untyped-call]
    content.copy_(storage)
    return content


def tensors(arm: TrainingArm) -> Iterator[Tensor]:
    """Everything of an arm that lies in its device's memory: weights, buffers, gradients, optimiser state."""
    for module in arm.modules:
        for tensor in chain(module.parameters(), module.buffers()):
            yield tensor
            if tensor.grad is not None:
                yield tensor.grad
    yield from optimizer_tensors(arm.optimizer)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """What the optimiser remembers, as far as it is tensors."""
    for remembered in optimizer.state.values():
        values = remembered.values() if isinstance(remembered, dict) else ()
        yield from (value for value in values if isinstance(value, Tensor))


def gradient_bytes(arm: TrainingArm) -> int:
    """Memory of the gradients that are there."""
    parameters = (parameter for module in arm.modules for parameter in module.parameters())
    return bytes_of(parameter.grad for parameter in parameters if parameter.grad is not None)


def storages(found: Iterable[Tensor]) -> dict[int, torch.UntypedStorage]:
    """Each storage once."""
    there = (tensor.untyped_storage() for tensor in found if has_storage(tensor))
    return {storage._cdata: storage for storage in there}


def bytes_of(found: Iterable[Tensor]) -> int:
    """Memory of the tensors, each storage once."""
    return sum(storage.nbytes() for storage in storages(found).values())
