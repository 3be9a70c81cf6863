"""Batches in an order keyed by (seed, epoch): every arm, generation and resumed run sees the same."""

from __future__ import annotations

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.tolaria.task.data.source import Split
from esper.tolaria.task.randomness import generator


class Loader:
    """Batches by number of the step; the position is the step, so nothing needs saving.

    The last batch of an epoch is short where the samples don't divide evenly; it is kept. A single sample that is
    left over joins the batch before it: one sample has no statistics for a BatchNorm to learn from.
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        if batch_size > len(split):
            raise ConfigError("batch_size", batch_size, f"is larger than the training set of {len(split)} samples")
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._rows = torch.empty(0, dtype=torch.int64)
        whole, left_over = divmod(len(split), batch_size)
        self.steps_per_epoch = whole + (left_over > 1)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the step, counted from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = torch.randperm(len(self._split), generator=generator(self._seed, "order", epoch))
            self._rows, self._epoch = order.to(self._split.inputs.device), epoch
        is_last = number == self.steps_per_epoch - 1
        rows = self._rows[number * self._batch_size : None if is_last else (number + 1) * self._batch_size]
        return self._split.inputs[rows], self._split.targets[rows]
