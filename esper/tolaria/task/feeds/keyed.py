"""Batches of a dataset that can be indexed, in an order that the seed and the epoch decide: any step can be had again.

The order is that of the loader's own sampler, drawn under a key; whatever a sample draws, such as an augmentation, is
drawn under the key of its step, in whichever worker that is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import samples_in
from esper.tolaria.task.feeds.underway import Underway
from esper.tolaria.task.randomness import key, seed_all

CPU = torch.device("cpu")
KEPT = 4
"""Batches that are remembered: trials before a run look at the first two."""
Rows = Sequence[Any]


class Orders:
    """The rows of each batch of an epoch."""

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self._loader = loader
        self._seed = seed
        self._epoch, self._rows = -1, list[Rows]()

    def of(self, epoch: int) -> list[Rows]:
        """The same for the same epoch, whatever was asked for before."""
        if epoch != self._epoch:
            self._rows, self._epoch = self._drawn(epoch), epoch
        return self._rows

    def is_kept(self) -> bool:
        """Whether the sampler gives the same order for the same draws; one that counts by itself doesn't."""
        return self._drawn(0) == self._drawn(0)

    def _drawn(self, epoch: int) -> list[Rows]:
        sampler = self._loader.batch_sampler
        for part in (sampler, self._loader.sampler):
            if (set_epoch := getattr(part, "set_epoch", None)) is not None:
                set_epoch(epoch)
        with _keyed(key(self._seed, "order", epoch)) as value:
            for part in (sampler, getattr(sampler, "sampler", None), self._loader):
                if isinstance(own := getattr(part, "generator", None), torch.Generator):
                    own.manual_seed(value)
            return [] if sampler is None else [list(rows) for rows in sampler]


class KeyedSamples(Dataset[Any]):
    """A dataset of batches: each is made under the key of its step."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], seed: int) -> None:
        self._dataset = dataset
        self._collate = collate
        self._seed = seed

    def __getitem__(self, item: tuple[int, Rows]) -> Any:
        step, rows = item
        with _keyed(key(self._seed, "batch", step)):
            fetch = getattr(self._dataset, "__getitems__", None)
            samples = fetch(rows) if fetch else [self._dataset[row] for row in rows]
            return self._collate(samples)


class KeyedFeeder:
    """Training batches of a DataLoader over a dataset that can be indexed."""

    is_replayable = True

    def __init__(self, loader: DataLoader[Any], seed: int, *, draws: int | None = None) -> None:
        """`draws` is the seed of what samples draw, where that isn't the order's, which all ranks share."""
        if loader.batch_sampler is None:
            raise ConfigError("data", "DataLoader(batch_size=None)", "gives single samples; give a batch_size")
        self._orders = Orders(loader, seed)
        self._loader = loader
        self._samples = KeyedSamples(loader.dataset, loader.collate_fn, seed if draws is None else draws)
        self.steps_per_epoch = len(self._orders.of(0))
        self._rows = RowsOfSteps(self._orders, self.steps_per_epoch, type(loader.batch_sampler).__name__)
        if not self.steps_per_epoch:
            raise ConfigError("data", type(loader.dataset).__name__, "its loader gives no batch; give more samples")
        self.samples: int | None = sum(len(rows) for rows in self._orders.of(0))
        self._next = 0
        self._ahead = Underway(self, has_workers=loader.num_workers > 0)
        self._kept: dict[int, Any] = {}

    @property
    def keeps_order(self) -> bool:
        """Whether the sampler can be drawn again."""
        return self._orders.is_kept()

    def batch(self, step: int) -> Any:
        """The batch of the step, counted from 0; made ahead by workers as long as steps follow each other."""
        if step not in self._kept:
            is_here = not self._loader.num_workers
            self._kept[step] = self._samples[step, self._rows.of(step)] if is_here else self._fetched(step)
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[step]

    def state_dict(self, step: int) -> dict[str, Any]:
        """The step tells."""
        return {}

    def load_state_dict(self, state: dict[str, Any], step: int) -> str:
        """The step tells."""
        return ""

    def close(self) -> None:
        """Its workers end."""
        self._ahead.end()

    def _fetched(self, step: int) -> Any:
        """By the workers, which go on from step to step over the ends of epochs."""
        if self._ahead.iterator is None or step != self._next:
            self._ahead.iterator = iter(self._from(step))
        self._next = step + 1
        return self._ahead.next()

    def _from(self, step: int) -> DataLoader[Any]:
        loader = self._loader
        return DataLoader(
            self._samples,
            batch_size=None,
            sampler=_Steps(step, self._rows.of),
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory and torch.cuda.is_available(),
            prefetch_factor=loader.prefetch_factor,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator().manual_seed(0),  # else the workers' seeds are drawn from the run's
        )


class RowsOfSteps:
    """Which rows each step takes."""

    def __init__(self, orders: Orders, steps_per_epoch: int, name: str) -> None:
        self._orders = orders
        self._steps_per_epoch = steps_per_epoch
        self._name = name

    def of(self, step: int) -> Rows:
        """The rows of the step, counted from 0. Raises ConfigError where the epochs aren't equal."""
        epoch, number = divmod(step, self._steps_per_epoch)
        rows = self._orders.of(epoch)
        if len(rows) != self._steps_per_epoch:
            batches = counted(len(rows), "batch", "batches")
            remedy = f"gives {batches} in epoch {epoch}, and {self._steps_per_epoch} in the first"
            raise ConfigError("data", self._name, f"{remedy}; epochs must be equal")
        return rows[number]


class _Steps:
    """All steps from one on, with their rows."""

    def __init__(self, start: int, rows: Callable[[int], Rows]) -> None:
        self._start = start
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        step = self._start
        while True:
            yield step, self._rows(step)
            step += 1


@contextmanager
def _keyed(value: int) -> Iterator[int]:
    """Global generators under a key inside; afterwards they stand where they stood."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_all(CPU, value)
        try:
            yield value
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def all_batches(loader: Any, seed: int, what: str) -> list[Any]:
    """Every batch of a set, read once. Raises ConfigError where there is none."""
    with _keyed(key(seed, "set", what)):
        batches = list(loader)
    if not batches or not all(samples_in(batch) for batch in batches):
        raise ConfigError("data", type(loader).__name__, f"the {what} set is empty; give at least one batch")
    return batches
