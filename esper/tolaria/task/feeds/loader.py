"""Batches keyed by the seed and the epoch, or the step: every arm, generation and resumed run sees the same."""

from __future__ import annotations

import torch
from torch import Tensor

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.source import Split, Splits, Stream
from esper.tolaria.task.device import sent
from esper.tolaria.task.feeds.carrier import Carrier
from esper.tolaria.task.randomness import generator

STEPS_PER_EPOCH = 100


class Loader:
    """Batches by number of the step; the position is the step, so nothing needs saving.

    The last batch of an epoch is short where the samples don't divide evenly; it is kept. A single sample that is
    left over joins the batch before it: one sample has no statistics for a BatchNorm to learn from.
    """

    is_replayable = True

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        if batch_size > len(split):
            raise ConfigError(
                "batch_size", batch_size, f"is larger than the training set of {counted(len(split), 'sample')}"
            )
        self.split = split
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._rows = torch.empty(0, dtype=torch.int64)
        whole, left_over = divmod(len(split), batch_size)
        self.steps_per_epoch = whole + (left_over > 1)
        self.largest_batch = batch_size + (left_over == 1)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the step, counted from 0."""
        epoch, start, stop = self.place(step)
        if epoch != self._epoch:
            self._rows, self._epoch = sent(self.order(epoch), self.split.inputs.device), epoch
        rows = self._rows[start:stop]
        return self.split.inputs[rows], self.split.targets[rows]

    def place(self, step: int) -> tuple[int, int, int]:
        """The step's epoch, and where in its order the batch begins and ends."""
        epoch, number = divmod(step, self.steps_per_epoch)
        start = number * self._batch_size
        return epoch, start, start + self.size(step)

    def size(self, step: int) -> int:
        """Samples of the step's batch."""
        last = self.steps_per_epoch - 1
        return self._batch_size if step % self.steps_per_epoch != last else len(self.split) - last * self._batch_size

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch in its order; on the CPU."""
        return torch.randperm(len(self.split), generator=generator(self._seed, "order", epoch))

    def batches(self, epoch: int) -> Tensor:
        """The samples of its batches, [steps_per_epoch, largest_batch]; zeros behind those of a smaller one."""
        order, size = self.order(epoch), self._batch_size
        if self.largest_batch == size:
            missing = self.steps_per_epoch * size - len(order)
            return torch.nn.functional.pad(order, (0, missing)).view(-1, size)
        last = len(order) - self.largest_batch
        found = order.new_zeros(self.steps_per_epoch, self.largest_batch)
        found[:-1, :size], found[-1] = order[:last].view(-1, size), order[last:]
        return found


class StreamLoader:
    """Batches drawn from a stream, each by its step alone; an epoch is a stated number of steps."""

    is_replayable = True

    def __init__(self, stream: Stream, batch_size: int, seed: int, steps_per_epoch: int, carrier: Carrier) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._seed = seed
        self._carrier = carrier
        self.steps_per_epoch = steps_per_epoch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the step, counted from 0."""
        batch: tuple[Tensor, Tensor] = self._carrier.bring(step, self._drawn)
        return batch

    def _drawn(self, step: int) -> tuple[Tensor, Tensor]:
        drawn = self._stream.draw(self._batch_size, generator(self._seed, "batch", step))
        return drawn.inputs, drawn.targets


def make_loader(config: TrainConfig, splits: Splits, carrier: Carrier) -> Loader | StreamLoader:
    """The loader of the training set, on the device."""
    if splits.stream is not None:
        steps = config.steps_per_epoch or STEPS_PER_EPOCH
        return StreamLoader(splits.stream, config.batch_size, config.seed, steps, carrier)
    if config.steps_per_epoch is not None:
        remedy = f"is for data drawn from a stream; {config.data} has epochs of its own: leave it out"
        raise ConfigError("steps_per_epoch", config.steps_per_epoch, remedy)
    if config.gpu_prefetch:
        raise ConfigError("gpu_prefetch", True, f"has nothing to fetch: {config.data} is on the device; leave it out")
    return Loader(splits.train, config.batch_size, config.seed)
