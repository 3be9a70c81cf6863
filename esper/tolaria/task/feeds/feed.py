"""A user's batches as a run needs them: training batches by step, and sets to judge by and to report on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import Batch, leaves, samples_in
from esper.tolaria.task.feeds.carrier import Carrier, on

Halves = Callable[[Any], Batch]
"""Parts what a loader gives into inputs and targets."""


class Feeder(Protocol):
    """Training batches as their loader gives them, by the number of a step."""

    steps_per_epoch: int
    samples: int | None
    """Samples of an epoch, where that is known."""
    is_replayable: bool
    """Whether an earlier step's batch can be had again at any time."""

    def batch(self, step: int) -> Any:
        """The batch of the step, counted from 0."""

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where it stands before the step, as far as the step doesn't tell."""

    def load_state_dict(self, state: dict[str, Any], step: int) -> str:
        """Go on at the step. Returns why the batches from there on need not be those of the first run; mostly empty."""

    def close(self) -> None:
        """Let go of the processes that make batches."""


@dataclass(frozen=True, slots=True)
class BatchSet:
    """Batches of a set that is looked at again and again."""

    batches: tuple[Batch, ...]
    document_count: int | None = None
    documents: None = None

    def __len__(self) -> int:
        return sum(samples_in(inputs) for inputs, _ in self.batches)

    def to(self, device: torch.device) -> BatchSet:
        """The same on a device."""
        return BatchSet(tuple(on(batch, device) for batch in self.batches))


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSets:
    """A few training batches, and the sets to judge by and to report on."""

    first: BatchSet
    judge: BatchSet
    test: BatchSet
    train_samples: int | None

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each set; a training set that doesn't tell has none to count."""
        held = {"judge": len(self.judge), "test": len(self.test)}
        return held if self.train_samples is None else {"train": self.train_samples, **held}

    def part_of(self, inputs: Any) -> str:
        """What a batch, or the first of its samples, belongs to: what isn't held is of the training set."""
        where = _address(inputs)
        named = (("judging set", self.judge), ("test set", self.test))
        found = (name for name, held in named if any(_address(batch[0]) == where for batch in held.batches))
        return next(found, "training set")

    def to(self, device: torch.device) -> BatchSets:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("first", "judge", "test")}
        return BatchSets(**moved, train_samples=self.train_samples)

    def digest(self) -> str:
        """SHA-256 over what is held here; of training data that is drawn these are the first batches."""
        return digest_of((name, getattr(self, name).batches) for name in ("first", "judge", "test"))


@dataclass(kw_only=True, slots=True)
class Feed:
    """What a user's loaders give."""

    train: Feeder
    judge: list[Any]
    test: list[Any]
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FedStream:
    """Training data that is drawn by its own loader, beside sets that are held."""

    samples: int
    first: tuple[Any, ...]

    def __len__(self) -> int:
        return self.samples

    def draw(self, count: int, draw: torch.Generator) -> Any:
        raise ConfigError("data", "a loader", "makes its batches itself; none can be drawn from it")

    def digest(self) -> str:
        """Of its first batches."""
        return digest_of([("first", self.first)])


class FedLoader:
    """Training batches by step, parted and on the device."""

    def __init__(self, feeder: Feeder, halves: Halves, carrier: Carrier) -> None:
        self.feeder = feeder
        self.steps_per_epoch = feeder.steps_per_epoch
        self.is_replayable = feeder.is_replayable
        self._halves = halves
        self._carrier = carrier

    def batch(self, step: int) -> Batch:
        """Inputs and targets of the step, counted from 0."""
        batch: Batch = self._carrier.bring(step, self._parted)
        return batch

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where it stands before the step."""
        return self.feeder.state_dict(step)

    def load_state_dict(self, state: dict[str, Any], step: int) -> str:
        """Go on at the step. Returns why what follows need not be what the first run saw; mostly empty."""
        self._carrier.forget()
        return self.feeder.load_state_dict(state, step)

    def close(self) -> None:
        """Let go of the processes that make batches."""
        self._carrier.forget()
        self.feeder.close()

    def _parted(self, step: int) -> Batch:
        return self._halves(self.feeder.batch(step))


def digest_of(parts: Iterable[tuple[str, Iterable[Any]]]) -> str:
    """SHA-256 over the tensors of named batches."""
    state = hashlib.sha256()
    for name, batches in parts:
        for tensor in _tensors(batches):
            state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _address(value: Any) -> int:
    """Of the first tensor's values, which its first samples share."""
    return next(leaves(value)).data_ptr()


def _tensors(batches: Iterable[Any]) -> Iterator[Tensor]:
    for batch in batches:
        yield from leaves(batch)
