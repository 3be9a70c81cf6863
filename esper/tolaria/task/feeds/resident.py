"""Batches that the device gathers by itself from a set that it holds: the host says where in the epoch, and only once.

Each gathering moves the position on, so steps in order need no word from the host. All batches of one size come in the
same memory: whoever reads one is done with it before the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.tolaria.task.feeds.loader import Loader


class Resident:
    """The batches of a loader, bit for bit."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._split = loader.split
        device = self._split.inputs.device
        self._order = torch.empty(len(self._split), dtype=torch.int64, device=device)
        self._position = torch.zeros((), dtype=torch.int64, device=device)
        self._numbers = torch.arange(loader.largest_batch, device=device)
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}
        self._epoch = self._at = self._start = self._size = -1

    def memory(self, step: int) -> tuple[Tensor, Tensor]:
        """Where the step's batch will be once it is gathered; it is the next one to be."""
        epoch, start, stop = self._loader.place(step)
        if epoch != self._epoch:
            order = self._loader.order(epoch)
            self._order.copy_(order.pin_memory() if self._order.is_cuda else order, non_blocking=True)
            self._epoch = epoch
        self._start, self._size = start, stop - start
        held = self._memory.get(self._size)
        if held is None:
            inputs, targets = (whole[: self._size].clone() for whole in (self._split.inputs, self._split.targets))
            held = self._memory[self._size] = inputs, targets
        return held

    def place(self) -> None:
        """Let the device be where that batch begins, before it gathers it."""
        if self._at != self._start:
            self._position.fill_(self._start)
        self._at = self._start + self._size

    def gather(self, batch: tuple[Tensor, Tensor]) -> None:
        """Fill such memory from the device's position on, and move that on: nothing of the host's is read."""
        size = len(batch[0])
        rows = self._order.index_select(0, self._numbers[:size] + self._position)
        torch.index_select(self._split.inputs, 0, rows, out=batch[0])
        torch.index_select(self._split.targets, 0, rows, out=batch[1])
        self._position.add_(size)
