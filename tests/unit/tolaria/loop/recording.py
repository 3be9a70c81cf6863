"""A backend that records on the CPU as CUDA's graphs do on a device: operators with the very tensors they were given.

Numbers that were read while a call was recorded are constants in it, memory stays where it was, and what the call
changed is put back: a recording does nothing until it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Recording(TorchDispatchMode):
    """Does what it records, and can undo it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            raise RuntimeError("operation not permitted when stream is capturing: a value is read")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._keep(argument, value)
        for argument in func._schema.arguments:
            if argument.name in kwargs:
                self._keep(argument, kwargs[argument.name])
        result = func(*args, **kwargs)
        given = _tensors((args, kwargs))
        known = {value.untyped_storage()._cdata for value in given}
        made = [value for value in _tensors(result) if not any(value is other for other in given)]
        self._own |= {value.untyped_storage()._cdata for value in made} - known
        self.calls.append((func, args, kwargs, made))
        return result

    def undo(self) -> None:
        for storage, content in self._before.values():
            storage.copy_(content)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self.calls:
                again = _tensors(func(*args, **kwargs))
                for value, new in zip(made, again[len(again) - len(made) :], strict=True):
                    if value.untyped_storage()._cdata in self._own and value.data_ptr() != new.data_ptr():
                        value.detach().copy_(new)

    def _keep(self, argument: Any, value: Any) -> None:
        if argument.alias_info is None or not argument.alias_info.is_write:
            return
        for tensor in _tensors(value):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._own and storage._cdata not in self._before:
                self._before[storage._cdata] = (storage, storage.clone())


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


class RecordedGraph:
    def __init__(self, recording: Recording, told: Tensor) -> None:
        self.replay = recording.replay
        self.told = told


class RecordingBackend:
    """Records on the CPU, and knows how often; `fails` raises in place of a capture."""

    pool_bytes = 0

    def __init__(self, fails: Callable[[], None] = lambda: None) -> None:
        self.captures = self.forgotten = self.warm_steps = 0
        self.operators: list[set[str]] = []
        """Names of what each recording repeats."""
        self._fails = fails

    def warm_up(self) -> AbstractContextManager[None]:
        self.warm_steps += 1
        return nullcontext()

    def capture(self, call: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> RecordedGraph:
        self._fails()
        recording = Recording()
        with self._undone(recording, generators), recording:
            told = call()
        self.captures += 1
        self.operators.append({func._schema.name for func, *_ in recording.calls})
        return RecordedGraph(recording, told)

    def beside(self, read: object) -> AbstractContextManager[None]:
        return nullcontext()

    def join(self) -> None:
        """A CPU does one thing after another."""

    def forget(self) -> None:
        self.forgotten += 1

    @contextmanager
    def _undone(self, recording: Recording, generators: Sequence[torch.Generator]) -> Iterator[None]:
        drawing = [torch.default_generator, *generators]
        states = [generator.get_state() for generator in drawing]
        try:
            yield
        finally:
            recording.undo()
            for generator, state in zip(drawing, states, strict=True):
                generator.set_state(state)
