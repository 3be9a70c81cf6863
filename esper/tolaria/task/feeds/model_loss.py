"""The loss that a model returns itself: it trains, and each sample's part of it judges.

That part is computed from logits and labels where their mean is the model's loss: of next tokens, of each position's
own label, or of one label for a sample. Else samples pass one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import Batch, called
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.leyline import TaskType
from esper.tolaria.task.feeds.batch_task import Each
from esper.tolaria.task.objective.agreement import MISFITS, reason_of
from esper.tolaria.task.randomness import key

IGNORED = -100
"""The label that counts for nothing."""
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class ModelLoss:
    """How a model's own loss is told by sample."""

    each: Each
    type: TaskType
    is_by_sample: bool
    told: str


def model_loss(model: nn.Module, batch: Batch) -> ModelLoss:
    """What of a model's outputs is its loss, sample by sample. Raises ConfigError where it returns none."""
    inputs, targets = batch
    with side_pass([model], key=key(0, "model loss"), training=False), torch.no_grad():
        try:
            outputs = called(model, inputs)
        except MISFITS as error:
            what = f"can't take a batch of the data: {reason_of(error)}"
            raise ConfigError("model", type(model).__name__, what) from error
    loss = part_of(outputs, "loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"gives {type(outputs).__name__} without a loss"
        remedy = (
            "give loss=, a function of (outputs, targets) with a loss for each sample, or let forward take labels "
            "of the batch and give their loss"
        )
        raise ConfigError("loss", type(model).__name__, f"{what}: {remedy}")
    labels, logits = part_of(targets, "labels"), part_of(outputs, "logits")
    if isinstance(labels, Tensor) and isinstance(logits, Tensor):
        for each, kind, told in FORMS:
            if _is_same(each, outputs, targets, loss):
                return ModelLoss(each, kind, False, f"the model's own loss, judged by {told}")
    told = "the model's own loss, judged sample by sample"
    return ModelLoss(lambda outputs, _: part_of(outputs, "loss").reshape(1), _type(targets), True, told)


def own_loss_of(outputs: Any, targets: Any) -> Tensor:
    """The mean that the model returns."""
    loss: Tensor = part_of(outputs, "loss")
    return loss.reshape(())


def part_of(value: Any, name: str) -> Any:
    """An item or attribute; None without it."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def next_tokens(outputs: Any, targets: Any) -> Tensor:
    """Mean loss of each sequence's next tokens."""
    return _of_positions(part_of(outputs, "logits")[:, :-1], part_of(targets, "labels")[:, 1:])


def positions(outputs: Any, targets: Any) -> Tensor:
    """Mean loss of each sequence's positions."""
    return _of_positions(part_of(outputs, "logits"), part_of(targets, "labels"))


def classes(outputs: Any, targets: Any) -> Tensor:
    """Loss of each sample's class."""
    labels = part_of(targets, "labels")
    return F.cross_entropy(part_of(outputs, "logits").float(), labels.flatten(), reduction="none")


FORMS: tuple[tuple[Each, TaskType, str], ...] = (
    (next_tokens, TaskType.TASK_TYPE_LANGUAGE_MODEL, "the mean of each sequence's next tokens"),
    (positions, TaskType.TASK_TYPE_REGRESSION, "the mean of each sample's positions"),
    (classes, TaskType.TASK_TYPE_REGRESSION, "each sample's cross-entropy"),
)


def _of_positions(logits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != IGNORED
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    ).view_as(labels)
    return losses.sum(1) / counted.sum(1).clamp(min=1)


def _is_same(each: Each, outputs: Any, targets: Any, loss: Tensor) -> bool:
    """Whether the samples' losses, each as often as it has labels that count, have the model's loss as their mean."""
    try:
        losses = each(outputs, targets)
    except (RuntimeError, IndexError, ValueError):
        return False
    labels = part_of(targets, "labels")
    labels = labels[:, 1:] if each is next_tokens else labels
    counts = (labels != IGNORED).reshape(len(losses), -1).sum(1)
    mean = (losses * counts).sum() / counts.sum().clamp(min=1)
    return bool(torch.isclose(mean, loss.float(), rtol=TOLERANCE, atol=TOLERANCE))


def _type(targets: Any) -> TaskType:
    labels = part_of(targets, "labels")
    is_text = isinstance(labels, Tensor) and labels.ndim == 2 and not labels.is_floating_point()
    return TaskType.TASK_TYPE_LANGUAGE_MODEL if is_text else TaskType.TASK_TYPE_REGRESSION
