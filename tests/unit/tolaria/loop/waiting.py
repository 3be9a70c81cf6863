"""Runs that live through a twin, watched for every wait: on the CPU for reads of values, on CUDA by torch itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from esper.kasmina.executor.slots import between
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.task.feeds.loader import Loader, StreamLoader

READS = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.cpu}
READS |= {torch.equal, torch.nonzero, Tensor.nonzero, Tensor.equal}


class _OnTheHost:
    """Whether code runs whose tensors stand on the CPU whatever the device: drawing a batch, the key of a mask."""

    depth = 0


def _on_the_host(work: Callable[..., Any]) -> Callable[..., Any]:
    def working(*arguments: Any, **keywords: Any) -> Any:
        _OnTheHost.depth += 1
        try:
            return work(*arguments, **keywords)
        finally:
            _OnTheHost.depth -= 1

    return working


class _NoScalars(TorchDispatchMode):
    """Also what C++ code reads on its own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_read = func is torch.ops.aten._local_scalar_dense.default
        assert not is_read or _OnTheHost.depth, "a value of a tensor is read in a step"
        return func(*args, **(kwargs or {}))


class _NoReads(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in READS or _OnTheHost.depth, f"{func.__name__} reads a tensor in a step"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_reads() -> Iterator[None]:
    with _NoScalars(), _NoReads():
        yield


@contextmanager
def no_waits() -> Iterator[None]:
    """On CUDA: an error for whatever waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def watch_steps(
    monkeypatch: pytest.MonkeyPatch,
    watched: Callable[[], AbstractContextManager[None]],
    *,
    first: int,
    lets_compile: bool = False,
) -> list[tuple[int, bool]]:
    """From step `first` on steps are made under the watch; the list fills with them, and whether there are two arms.

    Where blocks are compiled, the first step of a changed network is let alone: a compiler may wait as it likes.
    """
    seen: list[tuple[int, bool]] = []
    known: list[int] = []
    make = ArmSteps.make

    def watching(self: ArmSteps) -> None:
        step, topology = self._session.progress.step, self._executor.topology
        is_new = lets_compile and topology not in known
        known.append(topology)
        with ExitStack() as stack:
            if step >= first and not is_new:
                seen.append((step, self._executor.twin is not None))
                stack.enter_context(watched())
            make(self)

    monkeypatch.setattr(ArmSteps, "make", watching)
    for owner, name in ((Loader, "batch"), (StreamLoader, "_drawn"), (between, "_mask")):
        monkeypatch.setattr(owner, name, _on_the_host(getattr(owner, name)))
    return seen
