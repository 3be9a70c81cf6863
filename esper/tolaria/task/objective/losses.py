"""Losses that leave out labels, smooth them or weigh their classes, as torch computes them: means over what counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.tolaria.config import BALANCED, TrainConfig, weights_of
from esper.tolaria.task.data.source import Splits, counting

# What torch leaves out where nothing is to be; it is no label.
NO_LABEL = -100
Rows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """What a user says of the loss."""

    label_smoothing: float = 0.0
    class_weights: str | None = None
    """`balanced`, or a number for each class."""

    @classmethod
    def of(cls, config: TrainConfig) -> LossSettings:
        """Those of a run."""
        return cls(label_smoothing=config.label_smoothing, class_weights=config.class_weights)

    def refuse(self, what: str) -> None:
        """Refuse every setting that means nothing to such a task."""
        for key, value in (("label_smoothing", self.label_smoothing), ("class_weights", self.class_weights)):
            if value:
                raise ConfigError(key, value, f"means nothing to {what}; leave it out")


PLAIN = LossSettings()


class Labels:
    """Which labels count, and for how much."""

    def __init__(self, ignore_index: int | None, class_weights: Tensor | None) -> None:
        self.ignore_index = ignore_index
        self.class_weights = class_weights

    @property
    def all_alike(self) -> bool:
        """Whether every label counts for as much as any other."""
        return self.ignore_index is None and self.class_weights is None

    def counting(self, targets: Tensor) -> Tensor:
        """Which of them count."""
        return counting(targets, self.ignore_index)

    def known(self, targets: Tensor) -> Tensor:
        """The labels, with the first class in place of what doesn't count."""
        return targets if self.ignore_index is None else targets.where(targets != self.ignore_index, 0)

    def weights(self, targets: Tensor) -> Tensor:
        """The weight of each: nothing where it doesn't count."""
        counted = self.counting(targets).double()
        if self.class_weights is None:
            return counted
        return counted * self.class_weights.double()[self.known(targets).long()]


class CrossEntropy:
    """Mean cross-entropy of the labels that count, in torch's own words; nothing where none does.

    `rows` brings outputs and targets into rows, where positions as such aren't wanted.
    """

    def __init__(self, labels: Labels, label_smoothing: float, rows: Rows | None = None) -> None:
        self._labels = labels
        self._smoothing = label_smoothing
        self._rows = rows

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._rows is not None:
            outputs, targets = self._rows(outputs, targets)
        weights, ignored = self._labels.class_weights, self._labels.ignore_index
        if weights is not None:
            outputs = outputs.to(torch.promote_types(outputs.dtype, weights.dtype))
        loss = F.cross_entropy(
            outputs,
            targets,
            weight=None if weights is None else weights.to(outputs.dtype),
            ignore_index=NO_LABEL if ignored is None else ignored,
            label_smoothing=self._smoothing,
        )
        return loss if ignored is None else or_nothing(loss, self._labels.counting(targets))


class LogitCrossEntropy:
    """Mean cross-entropy of logits that each say yes or no, in torch's own words where all count alike."""

    def __init__(self, labels: Labels, label_smoothing: float) -> None:
        self._labels = labels
        self._smoothing = label_smoothing

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        truth = self._labels.known(targets).to(outputs.dtype)
        if self._smoothing:
            truth = truth * (1 - self._smoothing) + self._smoothing / 2
        if self._labels.all_alike:
            return F.binary_cross_entropy_with_logits(outputs, truth)
        each = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
        weights = self._labels.weights(targets).to(outputs.dtype)
        return (each * weights).sum() / weights.sum().clamp(min=torch.finfo(outputs.dtype).tiny)


class SoftCrossEntropy:
    """Mean cross-entropy of classes whose shares are given."""

    def __init__(self, label_smoothing: float) -> None:
        self._smoothing = label_smoothing

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return F.cross_entropy(outputs, targets.to(outputs.dtype), label_smoothing=self._smoothing)


def or_nothing(loss: Tensor, counted: Tensor) -> Tensor:
    """The mean loss, or 0 where it is the mean of nothing: torch's is NaN then, with gradients of 0."""
    return torch.where(counted.any(), loss, torch.zeros_like(loss))


def class_weights(settings: LossSettings, splits: Splits, classes: int) -> Tensor | None:
    """The weight of each class, on the data's device. Raises ConfigError where the setting doesn't fit the data."""
    text = settings.class_weights
    if text is None:
        return None
    targets = splits.train.targets
    labels = targets[counting(targets, splits.ignore_index)].long()
    if text != BALANCED:
        given = weights_of(text) or ()
        if len(given) != classes:
            raise ConfigError(
                "class_weights",
                text,
                f"has {counted(len(given), 'number')}, the data has {counted(classes, 'class', 'classes')}",
            )
        return torch.tensor(given, device=targets.device)
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if not bool(counts.all()):
        empty = int((counts == 0).nonzero()[0])
        raise ConfigError("class_weights", text, f"class {empty} has no training sample; give a number for each class")
    return (len(labels) / (classes * counts.double())).float().to(targets.device)
