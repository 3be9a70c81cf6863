"""From whatever a script holds its data in to sets that are held, or to loaders that feed a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.data.files import Files, task_of
from esper.tolaria.task.data.posing import counted, kind_named, outputs_of, posed, task_named
from esper.tolaria.task.data.source import ignoring
from esper.tolaria.task.data.splitting import stratified_rows
from esper.tolaria.task.entry_point import called
from esper.tolaria.task.feeds.feed import Feed
from esper.tolaria.task.feeds.halves import is_pair
from esper.tolaria.task.feeds.keyed import KeyedFeeder, all_batches
from esper.tolaria.task.feeds.loader import STEPS_PER_EPOCH
from esper.tolaria.task.feeds.sequential import SequentialFeeder

EXPECTED = (
    "expected (inputs, targets), a Dataset, a DataLoader, a DataSource, Splits, a name that the launcher knows, or "
    "these as train, judge (or validation) and test"
)
HELD_OUT = ("judge", "validation")
MOST_PARTS = 9
"""Of one sample in a list; three sets can't be made of fewer than ten samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The parts of a run's data: what trains, what judges, and what is only reported."""

    train: Any
    judge: Any
    test: Any = None


def splits_in(data: Any) -> Callable[[TrainConfig], Splits] | None:
    """What makes sets that are held in memory; None where the data isn't."""
    data = _tensors(data)
    if isinstance(data, Splits):
        return lambda config: counted(posed(data, config.task), config.ignore_index)
    if callable(getattr(data, "splits", None)):
        return partial(_of_source, data)
    if is_pair(data):
        return partial(_of_pair, data)
    parts = _parts(data)
    if parts is not None and all(is_pair(part) for part in parts.values()):
        return partial(_of_pairs, parts)
    return None


def feed_of(data: Any, config: TrainConfig) -> Feed:
    """Loaders that feed a run. Raises ConfigError for what is no data."""
    parts = _parts(data)
    if parts is None:
        parts = _divided(data, config)
    doubts = []
    judge = _read(parts["judge"], config, "judge")
    if "test" in parts:
        test = _read(parts["test"], config, "test")
    else:
        test = judge
        doubts.append("no test set was given: test figures are those of the judging set, which decided on growth")
    train = _feeder(parts["train"], config)
    if isinstance(train, KeyedFeeder) and not train.keeps_order:
        doubts.append("the sampler gives another order for the same draws")
    return Feed(train=train, judge=judge, test=test, doubts=doubts)


def _tensors(part: Any) -> Any:
    """A pair of arrays, or of lists of numbers, as one of tensors; anything else as it is."""
    is_two = isinstance(part, (tuple, list)) and len(part) == 2
    if not (is_two and (any(isinstance(half, numpy.ndarray) for half in part) or _are_lists(part))):
        return part
    try:
        return tuple(torch.as_tensor(half) for half in part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError("data", type(part).__name__, f"its arrays can't be tensors: {error}") from error


def _are_lists(pair: Any) -> bool:
    """Whether they are many numbers beside as many; two short lists may be two samples."""
    first, second = pair
    return isinstance(first, list) and isinstance(second, list) and len(first) == len(second) > MOST_PARTS


def _parts(data: Any) -> dict[str, Any] | None:
    """The named parts; None where the data is one."""
    if is_dataclass(data) and not isinstance(data, type):
        found = {field.name: getattr(data, field.name) for field in fields(data)}
    elif isinstance(data, Mapping):
        found = dict(data)
    else:
        return None
    found = {name: _tensors(part) for name, part in found.items() if part is not None}
    if unknown := [name for name in found if name not in ("train", *HELD_OUT, "test")]:
        raise ConfigError("data", ", ".join(map(str, unknown)), f"is no part of a run's data; {EXPECTED}")
    if "train" not in found or not any(name in found for name in HELD_OUT):
        raise ConfigError("data", ", ".join(found) or "nothing", "needs train, and judge or validation beside it")
    if all(name in found for name in HELD_OUT):
        raise ConfigError("data", "judge, validation", "are the same part under two names; give one of them")
    if "validation" in found:
        found["judge"] = found.pop("validation")
    return found


def _of_source(source: Any, config: TrainConfig) -> Splits:
    name = type(source).__name__
    with ignoring(config.ignore_index):
        splits = called("data", name, source.splits, config.seed, expected="splits(seed) -> Splits")
    if not isinstance(splits, Splits):
        raise ConfigError("data", name, f"its splits() gives {type(splits).__name__}, expected Splits")
    return counted(posed(splits, config.task), config.ignore_index)


class _Held(Files):
    """Samples that a script holds, divided as those of a file."""

    def __init__(self, pair: tuple[Tensor, Tensor], config: TrainConfig) -> None:
        super().__init__(
            Path("data"), config.samples, task_named(config.task), config.ignore_index, kind_named(config.task)
        )
        self._pair = pair

    def whole(self) -> Split:
        return Split(*self._pair)


def _of_pair(pair: tuple[Tensor, Tensor], config: TrainConfig) -> Splits:
    return _of_source(_Held(pair, config), config)


def _of_pairs(parts: Mapping[str, tuple[Tensor, Tensor]], config: TrainConfig) -> Splits:
    """Sets that the script divided; without a test set the judging set is reported twice."""
    sets = {name: Split(*pair) for name, pair in parts.items()}
    targets = sets["train"].targets
    kind, task = kind_named(config.task), task_named(config.task) or task_of(targets)
    with ignoring(config.ignore_index):
        outputs = outputs_of(task, list(sets.values()), config.ignore_index, kind)
        train, judge, test = sets["train"], sets["judge"], sets.get("test", sets["judge"])
        splits = Splits(train=train, judge=judge, test=test, task=task, outputs=outputs, label_kind=kind)
    return counted(splits, config.ignore_index)


def _divided(data: Any, config: TrainConfig) -> dict[str, Any]:
    """A dataset, or that of a loader, in three parts as the launcher divides one."""
    loader = data if isinstance(data, DataLoader) else None
    dataset = data if loader is None else loader.dataset
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        remedy = "can't be divided into sets" if isinstance(data, Iterable) else "is no data"
        raise ConfigError("data", type(data).__name__, f"{remedy}; {EXPECTED}")
    rows = stratified_rows(torch.zeros(len(dataset), dtype=torch.int64), config.seed)
    subsets = dict(zip(("train", "judge", "test"), (Subset(dataset, part.tolist()) for part in rows), strict=True))
    if loader is None:
        return {name: _loader(subset, config, shuffle=name == "train") for name, subset in subsets.items()}
    if loader.batch_size is None:
        raise ConfigError("data", "DataLoader", "has a sampler of its own; give train, judge and test")
    return {
        name: DataLoader(
            subset,
            batch_size=loader.batch_size,
            shuffle=name == "train",
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
        )
        for name, subset in subsets.items()
    }


def _loader(dataset: Any, config: TrainConfig, *, shuffle: bool) -> DataLoader[Any]:
    if len(dataset) == 0:
        raise ConfigError("data", type(dataset).__name__, "is empty; give at least one sample")
    return DataLoader(dataset, batch_size=config.batch_size, shuffle=shuffle)


def _is_map_style(part: Any) -> bool:
    is_dataset = isinstance(part, Dataset) or (hasattr(part, "__getitem__") and hasattr(part, "__len__"))
    return is_dataset and not isinstance(part, (IterableDataset, str, bytes, DataLoader))


def _feeder(part: Any, config: TrainConfig) -> KeyedFeeder | SequentialFeeder:
    if is_pair(part):
        part = torch.utils.data.TensorDataset(*part)
    if _is_map_style(part):
        part = _loader(part, config, shuffle=True)
    is_stateful = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
    if isinstance(part, DataLoader) and not is_stateful and not isinstance(part.dataset, IterableDataset):
        return KeyedFeeder(part, config.seed)
    if isinstance(part, IterableDataset):
        part = DataLoader(part, batch_size=config.batch_size)
    if not isinstance(part, Iterable):
        raise ConfigError("data", type(part).__name__, f"can't be iterated over; {EXPECTED}")
    return SequentialFeeder(part, config.steps_per_epoch or _length(part) or STEPS_PER_EPOCH)


def _length(part: Any) -> int | None:
    try:
        return len(part)
    except TypeError:
        return None


def _read(part: Any, config: TrainConfig, what: str) -> list[Any]:
    if is_pair(part):
        part = torch.utils.data.TensorDataset(*part)
    if _is_map_style(part):
        part = _loader(part, config, shuffle=False)
    elif isinstance(part, IterableDataset):
        part = DataLoader(part, batch_size=config.batch_size)
    if not isinstance(part, Iterable):
        raise ConfigError("data", f"{what}: {type(part).__name__}", f"can't be iterated over; {EXPECTED}")
    return all_batches(part, config.seed, what)
