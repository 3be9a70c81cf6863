"""What every data source gives: three disjoint sets of samples, and what kind of task they pose.

Training data is what the network learns from, judging data decides whether a seed is kept, test data is only reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType

# Outputs that may stand in memory at once while a set is evaluated: half a GB of float32.
VALUES_AT_ONCE = 2**27

_INTEGER_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, slots=True)
class Split:
    """Samples in rows, with their targets."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor) -> Split:
        """The named rows, in that order."""
        return Split(self.inputs[rows], self.targets[rows])

    def to(self, device: torch.device) -> Split:
        """The same samples on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))


class Stream(Protocol):
    """A training set too large to be held: sequences are drawn from it."""

    def __len__(self) -> int:
        """Sequences that have nothing in common."""

    def draw(self, count: int, draw: torch.Generator) -> Split:
        """So many sequences, on the CPU; equal generators give equal ones."""

    def digest(self) -> str:
        """SHA-256 over everything that can be drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The three sets of one run, checked when they are made."""

    train: Split
    judge: Split
    test: Split
    task: TaskType
    outputs: int
    """Classes, tokens of the vocabulary, or components of a regression target."""
    stream: Stream | None = None
    """Where training batches are drawn from, if not from `train`, which then holds the few samples that probes need."""

    def __post_init__(self) -> None:
        for name, split in self.named():
            _check_rows(name, split)
            if self.task != TaskType.TASK_TYPE_REGRESSION:
                _check_labels(name, split.targets, self.outputs)

    def named(self) -> tuple[tuple[str, Split], ...]:
        """The sets with their names, in order."""
        return ("train", self.train), ("judge", self.judge), ("test", self.test)

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each set."""
        sizes = {name: len(split) for name, split in self.named()}
        return sizes if self.stream is None else sizes | {"train": len(self.stream)}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device) -> Splits:
        """The same sets on a device."""
        return self.mapped(lambda split: split.to(device))

    def mapped(self, change: Callable[[Split], Split]) -> Splits:
        """The same with every set changed."""
        return replace(self, train=change(self.train), judge=change(self.judge), test=change(self.test))

    def rows_at_once(self, most: int) -> int:
        """So many samples, or fewer where their outputs would fill the memory."""
        positions = prod(self.sample_shape) if self.task == TaskType.TASK_TYPE_LANGUAGE_MODEL else 1
        return max(1, min(most, VALUES_AT_ONCE // (positions * self.outputs)))

    def digest(self) -> str:
        """SHA-256 over every sample: equal digests mean equal data."""
        state = hashlib.sha256()
        for name, split in self.named():
            for tensor in (split.inputs, split.targets):
                state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
                state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if self.stream is not None:
            state.update(f"stream:{self.stream.digest()};".encode())
        return state.hexdigest()


class DataSource(Protocol):
    """Anything that can be split by a run's seed."""

    def splits(self, seed: int) -> Splits:
        """The three sets of the run with that seed; equal seeds give equal sets."""


def _check_rows(name: str, split: Split) -> None:
    if len(split) == 0 or len(split.targets) != len(split):
        arrived = f"{len(split)} inputs, {len(split.targets)} targets"
        raise ConfigError("data", arrived, f"the {name} set needs as many targets as inputs, and at least one")
    for what, values in (("inputs", split.inputs), ("targets", split.targets)):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ConfigError("data", f"{name} {what}", "holds NaN or infinite values; clean the data first")


def _check_labels(name: str, labels: Tensor, outputs: int) -> None:
    if labels.dtype not in _INTEGER_TYPES:
        raise ConfigError("data", str(labels.dtype), f"labels of the {name} set must be whole numbers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs:
        raise ConfigError("data", f"{low}..{high}", f"labels of the {name} set must lie in 0..{outputs - 1}")
