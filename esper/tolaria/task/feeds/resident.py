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
        self._batches = torch.empty(loader.steps_per_epoch, loader.largest_batch, dtype=torch.int64, device=device)
        """Samples of each batch of the epoch; what lies behind those of a smaller one belongs to none."""
        self._position = torch.full((1,), -1, dtype=torch.int64, device=device)
        """Number in its epoch of the batch that was gathered last; on the device."""
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}
        self._epoch = self._at = self._number = -1
        self._order: tuple[int, Tensor] | None = None
        """Of the epoch that was drawn last, on the host."""

    def rows(self, like: Tensor) -> Tensor:
        """Room for what is told of each batch of an epoch: [batches, *like]."""
        return like.new_zeros(self._loader.steps_per_epoch, *like.shape)

    def keep(self, rows: Tensor, told: Tensor) -> None:
        """Write into such room what is told of the batch that was gathered last."""
        rows.index_copy_(0, self._position, told[None])

    def memory(self, step: int) -> tuple[Tensor, Tensor]:
        """Where the step's batch will be once it is gathered; it is the next one to be."""
        epoch, self._number = divmod(step, self._loader.steps_per_epoch)
        if epoch != self._epoch:
            self._batches.copy_(self._order_of(epoch), non_blocking=True)
            self._epoch = epoch
        size = self._loader.size(step)
        held = self._memory.get(size)
        if held is None:
            inputs, targets = (whole[:size].clone() for whole in (self._split.inputs, self._split.targets))
            held = self._memory[size] = inputs, targets
        return held

    def ahead(self, step: int) -> None:
        """Draw the order of the step's epoch, which comes next: best while the device still computes."""
        self._order_of(step // self._loader.steps_per_epoch)

    def _order_of(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            order = self._loader.batches(epoch)
            self._order = epoch, order.pin_memory() if self._batches.is_cuda else order
        return self._order[1]

    def alike(self, step: int, stop: int) -> int:
        """Where those from `step` on end, before `stop` in its epoch, that come in the same memory."""
        return stop if self._loader.size(stop - 1) == self._loader.size(step) else stop - 1

    def place(self, count: int = 1) -> int:
        """Let the device be where that batch begins, before it gathers so many from it on; returns its number."""
        if self._at != self._number - 1:
            self._position.fill_(self._number - 1)
        self._at = self._number + count - 1
        return self._number

    def gather(self, batch: tuple[Tensor, Tensor]) -> None:
        """Move the device's position on, and fill such memory from there: nothing of the host's is read."""
        rows = self._batches.index_select(0, self._position.add_(1))[0, : len(batch[0])]
        torch.index_select(self._split.inputs, 0, rows, out=batch[0])
        torch.index_select(self._split.targets, 0, rows, out=batch[1])
