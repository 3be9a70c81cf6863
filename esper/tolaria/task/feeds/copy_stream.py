"""Copies from the host on a CUDA stream of their own, beside what the device computes, timed by the device's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.passes.batches import leaves, mapped


@dataclass(frozen=True, slots=True)
class Copying:
    """A batch on the device whose copy may still go on."""

    batch: Any
    copied: tuple[torch.cuda.Event, torch.cuda.Event]


class CopyStream:
    """One for each run. A batch's memory is of this stream, and given to no other batch before it was computed with."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batch: Any) -> Copying:
        """Pin what isn't pinned, and begin to copy it; waits for nothing that the device does."""
        pinned = mapped(batch, _pinned)
        with torch.cuda.stream(self._stream):
            began = _event()
            moved = mapped(pinned, self._moved)
            return Copying(moved, (began, _event()))

    def receive(self, under_way: Copying) -> Any:
        """The batch; the current stream waits for its copy, and its memory isn't given away before that has used it."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(under_way.copied[1])
        for tensor in leaves(under_way.batch):
            if tensor.device == self._device:
                tensor.record_stream(computing)
        return under_way.batch

    def mark(self) -> torch.cuda.Event:
        """An event of the current stream."""
        with torch.cuda.device(self._device):
            return _event()

    def _moved(self, leaf: Any) -> Any:
        return leaf.to(self._device, non_blocking=True) if isinstance(leaf, Tensor) else leaf


def _pinned(leaf: Any) -> Any:
    return leaf.pin_memory() if isinstance(leaf, Tensor) and leaf.device.type == "cpu" else leaf


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
