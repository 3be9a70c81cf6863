"""From a user's loop to everything that a run is made of: data, task, arm, executor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from esper.core.errors import ConfigError
from esper.kasmina.executor import ExecutorConfig, SeedExecutor, TrainingArm
from esper.kasmina.executor.passes.batches import Batch, samples_in
from esper.kasmina.executor.passes.side_pass import device_of
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.door.average import Average
from esper.tolaria.door.own_ranks import check_lengths, first_of_all
from esper.tolaria.door.own_step import OwnStep
from esper.tolaria.own_blueprints import OwnBlueprints
from esper.tolaria.ranks.alike import start_alike
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.support import check_run
from esper.tolaria.task.data.posing import task_named
from esper.tolaria.task.device import place_of
from esper.tolaria.task.feeds.batch_task import BatchTask, check_training
from esper.tolaria.task.feeds.carrier import Carrier, carrier_for, on
from esper.tolaria.task.feeds.feed import BatchSet, BatchSets, FedLoader, Feeder, digest_of
from esper.tolaria.task.feeds.halves import is_pair, task_told_by
from esper.tolaria.task.feeds.keyed import KeyedFeeder, all_batches
from esper.tolaria.task.feeds.known import known_samples
from esper.tolaria.task.feeds.loader import STEPS_PER_EPOCH
from esper.tolaria.task.feeds.sequential import SequentialFeeder
from esper.tolaria.task.optimizers.optimizers import optimizer_doubts
from esper.tolaria.task.optimizers.schedule import growth_end_step
from esper.tolaria.task.pace import paced
from esper.tolaria.task.prepare import FetchArtifact, Prepared, check_isolable, rank_doubts, together
from esper.tolaria.task.randomness import of_rank


def own_run(
    config: TrainConfig,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Any,
    scaler: Any,
    *,
    step: OwnStep,
    loader: Iterable[Any],
    judge: Any,
    test: Any,
    average: Average | None,
    fetch: FetchArtifact,
    own: OwnBlueprints,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Raises ConfigError for what doesn't go together."""
    config = place_of(config, model)
    device = device_of(model)
    carrier = carrier_for(config, device)
    feeder = _feeder(loader, config, ranks)
    batches = OwnLoader(feeder, carrier, average)
    first = BatchSet((batches.batch(0),))
    arm = TrainingArm(model, optimizer, scheduler, scaler)
    if ranks.count > 1:
        check_lengths(ranks, feeder.steps_per_epoch, loader)
        first = BatchSet((first_of_all(ranks, first.batches[0], loader),))
        start_alike(ranks, arm)  # what is measured of the untrained network is measured of one
    with _named("loader"):
        samples = samples_in(first.batches[0][0])
    judged = _set(judge, config, "judge", device)
    doubts = [] if test is not None else ["no test set was given: test figures are those of the judging set"]
    reported = judged if test is None else _set(test, config, "test", device)
    sets = BatchSets(first=first, judge=judged, test=reported, train_samples=feeder.samples)
    _agree_on_sets(ranks, sets)
    task = _task(config, model, step, sets)
    task.ranks = ranks
    settings = ExecutorConfig(
        run_seed=config.seed,
        slots=config.slots or None,
        factories=own.factories,
        twin="live",
        halves_ends=config.stack_ends == "half",
        pass_samples=samples,
        is_in_place=True,
        **together(config.seed, ranks),
    )
    executor = SeedExecutor(arm, task, fetch_artifact=fetch, config=settings)
    check_isolable(config, executor)
    check_run(config, ranks, is_replayable=True, is_reentrant=executor.macs.is_reentrant)
    batches.executor = executor
    total_steps = config.steps or config.epochs * feeder.steps_per_epoch
    return Prepared(
        config=paced(config, total_steps, executor, samples),
        as_given=config,
        splits=sets,
        task=task,
        loader=batches,
        carrier=carrier,
        executor=executor,
        device=device,
        total_steps=total_steps,
        growth_end_step=growth_end_step(config, total_steps),
        host_parameters=sum(parameter.numel() for parameter in model.parameters()),
        interface=None,
        task_line=f"by {step.name}, scores clipped at {task.clip:.4g}",
        own=own,
        doubts=[
            *doubts,
            *known_samples(first.batches, judged.batches, reported.batches),
            *optimizer_doubts(optimizer, model, grows_spans=config.grow != "never"),
            *rank_doubts(model, ranks),
        ],
        ranks=ranks,
        has_own_loaders=True,
        is_given=True,
    )


class OwnLoader(FedLoader):
    """Batches whole, as the loop takes them; what else is saved beside them follows the network."""

    def __init__(self, feeder: Feeder, carrier: Carrier, average: Average | None) -> None:
        super().__init__(feeder, lambda batch: (batch, batch), carrier)
        self.executor: SeedExecutor | None = None
        self._average = average

    def batch(self, step: int) -> Batch:
        with _named("loader"):
            batch = self._carrier.bring(step, self.feeder.batch)
            return batch, batch

    def state_dict(self, step: int) -> dict[str, Any]:
        if self._average is None or self.executor is None:
            return super().state_dict(step)
        # Of a boundary at which a twin came or went, before the step that would show it.
        self._average.follow(self.executor.arm, self.executor.twin)
        return {**super().state_dict(step), "average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any], step: int) -> str:
        if self._average is not None and self.executor is not None and "average" in state:
            self._average.load_state_dict(state["average"], self.executor.arm, self.executor.twin)
        return super().load_state_dict(state, step)


def _task(config: TrainConfig, model: nn.Module, step: OwnStep, sets: BatchSets) -> BatchTask:
    batch = sets.first.batches[0][0]
    named = task_named(config.task)
    kind = task_told_by(batch) if named is None else named
    if kind != TaskType.TASK_TYPE_LANGUAGE_MODEL:
        kind = TaskType.TASK_TYPE_REGRESSION
    was_training = model.training
    task = BatchTask(sets, model, _losses, type=kind, forward=partial(step.tried, sets.part_of))
    check_training(task, model, sets.first.batches[0])
    model.train(was_training) if model.training != was_training else None
    return task


def _losses(outputs: Any, batch: Any) -> Tensor:
    """The outputs are the losses."""
    losses: Tensor = outputs
    return losses


def _agree_on_sets(ranks: Ranks, sets: BatchSets) -> None:
    """Raises RanksDiffer where a rank has another judging or test set."""
    for name, held in (("judging", sets.judge), ("test", sets.test)) if ranks.count > 1 else ():
        digest = digest_of([(name, held.batches)])
        ranks.agree(
            f"{name} set", digest, "give every rank the whole of it, in one order: ranks share it out by themselves"
        )


def _feeder(loader: Any, config: TrainConfig, ranks: Ranks) -> KeyedFeeder | SequentialFeeder:
    _check_batches(loader, "loader")
    is_stateful = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    is_mapped = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if is_stateful and ranks.count > 1 and config.checkpoint_every_epochs:
        remedy = "stands somewhere else in every process, and a checkpoint holds where rank 0's stood"
        give = "give a DataLoader over a dataset that can be indexed, or checkpoint_every_epochs=0"
        raise ConfigError("loader", type(loader).__name__, f"{remedy}: with many ranks {give}")
    if config.grow != "never" and is_mapped and not is_stateful:
        with _named("loader"):
            return KeyedFeeder(loader, config.seed, draws=of_rank(config.seed, ranks.rank))
    return SequentialFeeder(loader, config.steps_per_epoch or _length(loader) or STEPS_PER_EPOCH)


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _set(part: Any, config: TrainConfig, what: str, device: torch.device) -> BatchSet:
    _check_batches(part, what)
    with _named(what):
        batches = all_batches(part, config.seed, what)
    return BatchSet(tuple(_whole(batch, device) for batch in batches))


def _check_batches(part: Any, what: str) -> None:
    """Refuse what is one batch, or a name of some, where batches are expected."""
    is_one = isinstance(part, (Tensor, Mapping)) or (isinstance(part, tuple) and is_pair(part))
    if is_one:
        arrived = "(inputs, targets)" if isinstance(part, tuple) else type(part).__name__
        raise ConfigError(what, arrived, "is one batch where many are expected: give a DataLoader, or a list of them")
    if isinstance(part, (str, bytes)) or not isinstance(part, Iterable):
        raise ConfigError(what, type(part).__name__, "expected a DataLoader, or another iterable of batches")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Refusals of data inside name the argument that it came by."""
    try:
        yield
    except ConfigError as error:
        if error.key != "data":
            raise
        raise ConfigError(what, error.value, error.remedy) from error


def _whole(batch: Any, device: torch.device) -> Batch:
    moved = on(batch, device)
    return moved, moved
