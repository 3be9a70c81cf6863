"""A network beside its data: sets, loader and task, in forms that agree, as settings or a script give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import Batch, called, logits_in
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.leyline import TaskType
from esper.tolaria.config import AUTO_TASK, BY_LOSSES, TrainConfig
from esper.tolaria.task.data import Split, Splits, load_splits
from esper.tolaria.task.data.facts import described, doubts
from esper.tolaria.task.data.files import task_of
from esper.tolaria.task.data.overlap import overlaps
from esper.tolaria.task.data.posing import counted, kind_named, outputs_of, task_named
from esper.tolaria.task.data.registry import SOURCES
from esper.tolaria.task.data.source import LabelKind, ignoring
from esper.tolaria.task.device import check_values
from esper.tolaria.task.feeds.batch_task import BatchTask, PerSample, check_held, check_training
from esper.tolaria.task.feeds.carrier import Carrier, on
from esper.tolaria.task.feeds.feed import BatchSet, BatchSets, FedLoader, FedStream, Feed
from esper.tolaria.task.feeds.halves import halves_for, is_pair, task_told_by
from esper.tolaria.task.feeds.known import known_samples
from esper.tolaria.task.feeds.loader import Loader, StreamLoader, make_loader
from esper.tolaria.task.feeds.model_loss import model_loss, own_loss_of
from esper.tolaria.task.given import Given
from esper.tolaria.task.inputs.augment import Augmented, augmented
from esper.tolaria.task.inputs.normalize import normalized
from esper.tolaria.task.inputs.transform import transformed
from esper.tolaria.task.interface import Interface, interface_of
from esper.tolaria.task.models.models import Host, build_host
from esper.tolaria.task.objective.agreement import EXAMPLES, MISFITS, agreed, as_posed, check_passes
from esper.tolaria.task.objective.losses import LossSettings
from esper.tolaria.task.objective.own import OwnTask, check_sources, own_loss
from esper.tolaria.task.objective.task import SplitTask, make_task
from esper.tolaria.task.randomness import key
from esper.tolaria.task.start.fitting import Start, Started, put_in
from esper.tolaria.task.start.frozen import freeze, keep_statistics

FIRST_BATCHES = 2
"""Training batches that show what the data is like, where it isn't held."""


@dataclass(kw_only=True, slots=True)
class Posed:
    """What is trained on what."""

    model: nn.Module
    sets: Splits | BatchSets
    task: SplitTask
    loader: Loader | StreamLoader | FedLoader | Augmented
    interface: Interface | None
    """What the network takes and gives; None where that is more than a tensor."""
    line: str
    """What is learned, in a few words."""
    doubts: list[str] = field(default_factory=list)
    losses: int = 1
    """How many losses the network learns by at once."""
    started: Started | None = None
    """The weights that it starts from, where they aren't random."""


def pose(config: TrainConfig, given: Given, carrier: Carrier, start: Start | None = None) -> Posed:
    """Raises ConfigError for what doesn't go together."""
    if given.feed is None:
        splits = load_splits(config) if given.splits is None else given.splits(config)
        return _of_splits(config, given, splits, carrier, start)
    if given.model is None:
        raise ConfigError(
            "model", config.model, "is built for data that is held; with a loader, give the network itself"
        )
    if (held := _held_pairs(config, given.feed)) is not None:
        return _of_splits(config, given, held, carrier, start)
    return _of_batches(config, given.model, given, given.feed, carrier, start)


@contextmanager
def named_by_settings(config: TrainConfig, model: nn.Module) -> Iterator[None]:
    """Refusals of the model inside name it as the setting does: its class, often Sequential, says little."""
    try:
        yield
    except ConfigError as error:
        if (error.key, error.value) != ("model", type(model).__name__):
            raise
        raise ConfigError("model", config.model, error.remedy) from error


def in_training_mode(config: TrainConfig, model: nn.Module) -> list[str]:
    """A network is trained in training mode; parts of one that are in eval mode stay so. Returns what to tell."""
    if model.training:
        return []
    model.train()
    keep_statistics(config, model)
    return ["the model was handed over in eval mode; it trains in training mode"]


def _of_splits(config: TrainConfig, given: Given, read: Splits, carrier: Carrier, start: Start | None) -> Posed:
    # The sets of built-in sources are known.
    shared = [] if config.data in SOURCES else overlaps(read)
    if given.feed is not None and isinstance(read.stream, FedStream):
        shared += _known(given.feed, read.stream.first, given.feed.judge, given.feed.test)
    data, scaling = normalized(config, transformed(config, read))
    host = _host(config, given, data)
    with named_by_settings(config, host.model):
        check_values(host.model, may_be_lazy=True)
    model = host.model.to(carrier.device)
    told = in_training_mode(config, model)
    started = None if start is None else put_in(config, model, start)
    splits = host.splits.to(carrier.device)
    if given.model is not None:
        splits = _as_many_classes(model, splits)
    own = own_loss(config, given.loss)
    if own is None:
        splits = agreed(config, model, splits)
        task, what = make_task(splits, LossSettings.of(config)), described(splits)
    else:
        fitting = as_posed(config, model, splits)
        splits = splits if fitting is None else fitting
        with named_by_settings(config, model):
            task = OwnTask(splits, own, model, None if fitting is None else make_task(fitting))
        what = f"{described(splits)}, by {own.name}, scores clipped at {task.clip:.4g}"
        if task.mixes_samples:
            told.append(f"{own.name} gives a sample another loss beside other samples: scores depend on batches")
    check_sources(config, own)
    loader = _loader(config, given, splits, carrier)
    check_passes(config, model, task, loader, splits)
    return Posed(
        model=model,
        sets=splits,
        task=task,
        loader=loader,
        interface=interface_of(data, host.splits, scaling, config.transform),
        line=what,
        losses=1 if own is None else max(1, len(own.names)),
        started=started,
        doubts=[
            *told,
            *doubts(splits, is_guessed=config.task == AUTO_TASK),
            *shared,
            *(() if given.feed is None else given.feed.doubts),
        ],
    )


def _of_batches(
    config: TrainConfig, model: nn.Module, given: Given, feed: Feed, carrier: Carrier, start: Start | None
) -> Posed:
    _refuse_for_batches(config)
    device = carrier.device
    with named_by_settings(config, model):
        check_values(model)
    freeze(config, model.to(device))
    told = in_training_mode(config, model)
    started = None if start is None else put_in(config, model, start)
    halves = partial(halves_for, model)
    loader = FedLoader(feed.train, halves, carrier)
    first = BatchSet(tuple(loader.batch(step) for step in range(min(FIRST_BATCHES, loader.steps_per_epoch))))
    judge, test = (BatchSet(tuple(on(halves(batch), device) for batch in part)) for part in (feed.judge, feed.test))
    sets = BatchSets(first=first, judge=judge, test=test, train_samples=feed.train.samples)
    with named_by_settings(config, model):
        task, line = _batch_task(config, model, given, sets)
        check_training(task, model, first.batches[0])
        check_held(task, model, sets)
    return Posed(
        model=model,
        sets=sets,
        task=task,
        loader=loader,
        interface=None,
        line=line,
        doubts=[*told, *feed.doubts, *_known(feed, first.batches, judge.batches, test.batches)],
        started=started,
    )


def _known(feed: Feed, train: Sequence[Batch], judge: Sequence[Batch], test: Sequence[Batch]) -> list[str]:
    return known_samples(train, judge, judge if feed.test is feed.judge else test)


def _refuse_for_batches(config: TrainConfig) -> None:
    """What is for tensors that are held, or for pairs of them."""
    for name in ("normalize", "transform", "augment"):
        if value := getattr(config, name):
            raise ConfigError(name, value, "is for pairs of tensors; these batches are others: do it in the data set")
    if config.surgery == BY_LOSSES:
        raise ConfigError("surgery", config.surgery, "is for pairs of tensors; these batches are others: leave it out")


def _batch_task(config: TrainConfig, model: nn.Module, given: Given, sets: BatchSets) -> tuple[BatchTask, str]:
    for name in ("label_smoothing", "class_weights", "ignore_index"):
        if value := getattr(config, name):
            raise ConfigError(name, value, "is of the built-in losses, for pairs of tensors; put it into your own loss")
    named, batch = task_named(config.task), sets.first.batches[0]
    named = named if named == TaskType.TASK_TYPE_LANGUAGE_MODEL else None if named is None else _OWN
    if given.loss is not None:
        each, name = PerSample(given.loss, _name(given.loss)), _name(given.loss)
        kind = task_told_by(batch[0]) if named is None else named
        task = BatchTask(sets, model, each, type=kind, metric=given.metric)
        return task, f"by {name}, scores clipped at {task.clip:.4g}"
    found = model_loss(model, batch)
    task = BatchTask(
        sets,
        model,
        found.each,
        type=found.type if named is None else named,
        loss=own_loss_of,
        metric=given.metric,
        is_by_sample=found.is_by_sample,
    )
    return task, f"{found.told}, scores clipped at {task.clip:.4g}"


_OWN = TaskType.TASK_TYPE_REGRESSION


def _host(config: TrainConfig, given: Given, data: Splits) -> Host:
    if given.model is None:
        return build_host(config, data)
    freeze(config, given.model)
    return Host(name=config.model, model=given.model, splits=data)


def _loader(
    config: TrainConfig, given: Given, splits: Splits, carrier: Carrier
) -> Loader | StreamLoader | FedLoader | Augmented:
    if given.feed is None:
        return augmented(config, make_loader(config, splits, carrier))
    if config.augment is not None:
        raise ConfigError("augment", config.augment, "is for data that is held; a loader's data set does it by itself")
    shape = tuple(splits.train.targets.shape[1:])

    def halves(batch: Any) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        targets = targets.to(splits.train.targets.dtype)
        return inputs, targets.reshape(len(targets), *shape)

    return FedLoader(given.feed.train, halves, carrier)


def _held_pairs(config: TrainConfig, feed: Feed) -> Splits | None:
    """The sets as single tensors, where a loader gives pairs of tensors of one form; None where it gives others."""
    steps = range(min(FIRST_BATCHES, feed.train.steps_per_epoch))
    first = tuple(feed.train.batch(step) for step in steps)
    parts = [_whole(batches) for batches in (first, feed.judge, feed.test)]
    sets = [part for part in parts if part is not None]
    if len(sets) < len(parts) or len({(s.inputs.shape[1:], s.targets.shape[1:]) for s in sets}) > 1:
        return None
    train, judge, test = sets
    kind = kind_named(config.task)
    task = task_named(config.task) or task_of(judge.targets)
    samples = feed.train.samples or len(first[0][0]) * feed.train.steps_per_epoch
    with ignoring(config.ignore_index):
        splits = Splits(
            train=train,
            judge=judge,
            test=test,
            task=task,
            outputs=outputs_of(task, sets, config.ignore_index, kind),
            label_kind=kind,
            stream=FedStream(samples, first),
        )
    return counted(splits, config.ignore_index)


def _whole(batches: Any) -> Split | None:
    if not batches or not all(is_pair(batch) for batch in batches):
        return None
    forms = {tuple((part.shape[1:], part.dtype) for part in batch) for batch in batches}
    if len(forms) > 1:
        return None
    inputs, targets = (torch.cat([batch[half] for batch in batches]) for half in (0, 1))
    return Split(inputs, targets)


def _as_many_classes(model: nn.Module, splits: Splits) -> Splits:
    """Classes that the network knows and no label names are there all the same."""
    if splits.task == TaskType.TASK_TYPE_REGRESSION or splits.label_kind != LabelKind.ONE:
        return splits
    try:
        with side_pass([model], key=key(0, "outputs"), training=False), torch.no_grad():
            outputs = logits_in(called(model, splits.train.inputs[:EXAMPLES]))
    except MISFITS:
        return splits  # whoever compares the two says it
    dim = -1 if splits.task == TaskType.TASK_TYPE_LANGUAGE_MODEL else 1
    known = outputs.shape[dim] if isinstance(outputs, Tensor) and outputs.ndim > 1 else 0
    return replace(splits, outputs=known) if known > splits.outputs else splits


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
