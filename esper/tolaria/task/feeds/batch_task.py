"""A task over batches of any form: a loss of each sample, which trains by its mean and judges by its bounded value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import Batch, Forward, called, leaves, samples_in, taken
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.leyline import TaskType
from esper.tolaria.task.feeds.feed import BatchSet, BatchSets
from esper.tolaria.task.objective.agreement import MISFITS, reason_of
from esper.tolaria.task.objective.own import CLIP_IN_FIRST_LOSSES
from esper.tolaria.task.objective.task import SplitTask
from esper.tolaria.task.randomness import key

Each = Callable[[Any, Any], Tensor]
"""The loss of each sample, of outputs and targets: [N]."""


class BatchTask(SplitTask):
    """Scores are clipped at four times the mean magnitude of the untrained network's, and are shares of that mean."""

    has_posed_outputs = False

    def __init__(
        self,
        sets: BatchSets,
        model: nn.Module,
        each: Each,
        *,
        type: TaskType,
        loss: Each | None = None,
        forward: Forward = called,
        metric: Callable[..., Any] | None = None,
        is_by_sample: bool = False,
    ) -> None:
        """`loss` is the mean where it is something else than that of `each`; `is_by_sample` passes one at a time."""
        self.type = type
        self.loss = loss or (lambda outputs, targets: each(outputs, targets).mean())
        self.counts_hits = False
        self.judge_documents = None
        self._sets = sets
        self._each = each
        self._forward = forward
        self._by_sample = is_by_sample
        self._metric = metric
        self._unit = self._first_losses(model)
        self.clip = CLIP_IN_FIRST_LOSSES * self._unit

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        return self._forward(model, inputs)

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        return self._each(outputs, targets).float().clamp(-self.clip, self.clip)

    def clipped_scores(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        scores, clipped = super().clipped_scores(outputs, targets)
        return scores / self._unit, clipped

    def weight(self, targets: Any) -> int:
        return samples_in(targets)

    def count(self, targets: Any) -> int:
        return samples_in(targets)

    def sums(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        if self._metric is None:
            return {}
        value, samples = self._metric(outputs, targets), samples_in(targets)
        found = value.double().mean() if isinstance(value, Tensor) else torch.tensor(float(value)).double()
        device = next(leaves(outputs)).device
        return {"value": found.to(device) * samples, "samples": torch.tensor(samples, device=device).double()}

    def metrics(self, sums: Mapping[str, float], split: Any) -> dict[str, float]:
        name = getattr(self._metric, "__name__", "metric")
        return {name: sums["value"] / sums["samples"]} if self._metric is not None else {}

    def judge_batches(self) -> Iterator[Batch]:
        return self.batches(self._sets.judge)

    def batches(self, split: Any) -> Iterator[Batch]:
        batches: BatchSet = split
        for batch in batches.batches:
            if self._by_sample:
                yield from (taken(batch, row, row + 1) for row in range(samples_in(batch[0])))
            else:
                yield batch

    def probe_inputs(self) -> Any:
        return self._sets.first.batches[0][0]

    def _first_losses(self, model: nn.Module) -> float:
        """The mean magnitude of a loss before any step."""
        found = []
        with side_pass([model], key=key(0, "own loss"), training=False), torch.no_grad():
            for inputs, targets in self.batches(self._sets.first):
                try:
                    losses = self._each(self.forward(model, inputs), targets)
                except MISFITS as error:
                    kind = type(model).__name__
                    raise ConfigError("data", kind, f"can't take a batch of the data: {reason_of(error)}") from error
                found.append(losses.double().abs())
        unit = float(torch.cat(found).mean())
        if not 0.0 < unit < float("inf"):
            raise ConfigError("loss", unit, "is the mean loss before any step; expected a finite number above 0")
        return unit


def check_training(task: BatchTask, model: nn.Module, batch: Batch) -> None:
    """Make a pass as training does. Leaves the model as it was. Raises ConfigError for a loss that can't train."""
    name = type(model).__name__
    with side_pass([model], key=key(0, "passes"), training=None), torch.enable_grad():
        try:
            loss = task.loss(task.forward(model, batch[0]), batch[1])
        except MISFITS as error:
            raise ConfigError("model", name, f"can't make a training pass: {reason_of(error)}") from error
    if not bool(torch.isfinite(loss)):
        raise ConfigError(
            "model", name, f"its loss is {float(loss.detach())} before any step; look at the data's scale"
        )
    if not loss.requires_grad:
        raise ConfigError("model", name, "its loss has no gradient: look for detach(), no_grad() or frozen weights")


def check_held(task: BatchTask, model: nn.Module, sets: BatchSets) -> None:
    """Score a batch of each set that is held. Raises ConfigError for one that can't be scored."""
    for name, held in (("judge", sets.judge), ("test", sets.test)):
        with side_pass([model], key=key(0, "held"), training=False), torch.no_grad():
            inputs, targets = next(task.batches(held))
            try:
                task.scores(task.forward(model, inputs), targets)
            except MISFITS as error:
                told = f"can't be scored as the training set's can: {reason_of(error)}"
                raise ConfigError("data", f"{name} set", told) from error


class PerSample:
    """A user's loss of (outputs, targets), held to one loss for each sample."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._name = name

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return one_each(self._function(outputs, targets), samples_in(targets), "loss", self._name)


ROWS = "samples are the rows of the first tensor of what is given: put one that has a row for each first"


def one_each(losses: Any, samples: int, key: str, name: str) -> Tensor:
    """Losses [N] for so many samples. Raises ConfigError for anything else."""
    if not isinstance(losses, Tensor):
        raise ConfigError(
            key, name, f"gives {type(losses).__name__}, expected a tensor with a loss for each sample, [N]"
        )
    if losses.ndim == 0:
        remedy = "reduction='none', and a mean over what a sample holds"
        raise ConfigError(
            key, name, f"gives one number for {counted(samples, 'sample')}, expected a loss for each, [N]: {remedy}"
        )
    if losses.shape != (samples,) or not losses.is_floating_point():
        what = f"{str(losses.dtype).removeprefix('torch.')} of shape {tuple(losses.shape)}"
        raise ConfigError(
            key,
            name,
            f"gives {what} for {counted(samples, 'sample')}, expected floating-point losses ({samples},); {ROWS}",
        )
    return losses
