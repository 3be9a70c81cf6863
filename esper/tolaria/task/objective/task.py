"""What is to be learned: the loss that trains, the bounded score that judges, and the share that is right.

A score belongs to one sample (of a language model: a sequence) and is bounded, so that no single mistake can decide a
judgement: the Brier score for classes, the clipped loss otherwise. Where samples are of documents, those are the
independent units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite, log
from operator import mul
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.passes.batches import Batch, called, logits_in, mapped
from esper.leyline import TaskType
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.sharing import names_of_first, over
from esper.tolaria.task.data.source import LabelKind, Splits
from esper.tolaria.task.objective.losses import (
    PLAIN,
    CrossEntropy,
    Labels,
    LogitCrossEntropy,
    LossSettings,
    SoftCrossEntropy,
    class_weights,
)
from esper.tolaria.task.randomness import key

JUDGE_BATCH = 512
PROBE_SAMPLES = 64
# A token counts no worse than one as unlikely as the square of a uniform guess. Early in small runs 5 % of bytes lose
# more than one guess, hardly any more than two; one of those moves a sequence of 64 by a thirty-second of a guess.
CLIP_IN_UNIFORM_GUESSES = 2.0
# Squared errors are clipped at so many variances of the training targets.
CLIP_IN_VARIANCES = 4.0


class Metric(Protocol):
    """A figure of a whole set, for people."""

    name: str

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """The figure."""


class SplitTask:
    """A task over the splits of a run; the executor judges with it, the stepper trains with it."""

    metric: Metric | None = None
    """A user's own."""
    has_posed_outputs = True
    """Whether outputs have the form that the data's task asks for."""
    ranks: Ranks = ALONE
    """Who shares evaluations."""

    def __init__(self, splits: Splits, loss: Callable[[Tensor, Tensor], Tensor], *, counts_hits: bool) -> None:
        self.type = splits.task
        self.loss = loss
        self.counts_hits = counts_hits
        self._splits = splits
        documents = splits.judge.documents
        self.judge_documents = None if documents is None else documents.cpu()

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's outputs, or the logits among them."""
        return logits_in(called(model, inputs))

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Bounded score of each sample, lower is better."""
        raise NotImplementedError

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The same scores, and the share of each sample's tokens that was clipped: none where there are no tokens."""
        scores = self.scores(outputs, targets)
        return scores, scores.new_zeros(len(scores))

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Which predictions are right."""
        return outputs.argmax(-1) == targets

    def accuracy(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The share of predictions that are right, of those that count."""
        return self.hits(outputs, targets).mean(dtype=dtype)

    def weight(self, targets: Tensor) -> Tensor | int:
        """How much the loss of these samples counts in a mean of losses."""
        return len(targets)

    def count(self, targets: Tensor) -> Tensor | int:
        """How much their accuracy counts in a mean of accuracies."""
        return len(targets)

    def named_losses(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The means of several losses by name, which add up to the loss; empty where there is one."""
        return {}

    def check_loss(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse a loss that can't be used, where it isn't one of these."""

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sums over these samples that figures of a whole set are made from."""
        return {}

    def spread(self, split: Any) -> dict[str, Tensor]:
        """The same of a whole set, of which no network need be asked."""
        return {}

    def metrics(self, sums: Mapping[str, float], split: Any) -> dict[str, float]:
        """Further figures of a set for people, by name, from its sums."""
        return {}

    def judge_batches(self) -> Iterator[Batch]:
        """All judging samples, in order."""
        return self.batches(self._splits.judge)

    def over_judging(self, measure: Callable[[Batch], Tensor]) -> list[Tensor]:
        """What `measure` makes of each judging batch, in order; the ranks share the batches."""
        return over(self.judge_batches(), measure, self.ranks)

    def over_judging_rows(self, measure: Callable[[Batch], Tensor], rows: Tensor) -> list[Tensor]:
        """The same of the named rows alone, in that order."""
        judge = self._splits.judge
        return over(self.batches(judge.take(rows.to(judge.inputs.device))), measure, self.ranks)

    def batches(self, split: Any) -> Iterator[Batch]:
        """All samples of a set in order, in batches for evaluation."""
        rows = self._splits.rows_at_once(JUDGE_BATCH)
        for start in range(0, len(split), rows):
            yield split.inputs[start : start + rows], split.targets[start : start + rows]

    def probe_inputs(self) -> Tensor:
        """A few training inputs, always the same."""
        return self._splits.train.inputs[: self._splits.rows_at_once(PROBE_SAMPLES)]


class LabelTask(SplitTask):
    """A task of labels, of which some may count for nothing, or for more than others.

    Scores of classes are weighed as their losses are, in shares of the mean weight of the training labels, so that
    margins mean the same; smoothing is a matter of training alone.
    """

    def __init__(
        self, splits: Splits, loss: Callable[[Tensor, Tensor], Tensor], labels: Labels, *, counts_hits: bool = True
    ) -> None:
        super().__init__(splits, loss, counts_hits=counts_hits)
        self._labels = labels
        self._mean_weight = 1.0
        if labels.class_weights is not None:
            targets = splits.train.targets
            self._mean_weight = float(labels.weights(targets).sum() / labels.counting(targets).sum())

    def accuracy(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._labels.ignore_index is None:
            return super().accuracy(outputs, targets, dtype)
        counted = self._labels.counting(targets)
        return (self.hits(outputs, targets) & counted).sum().to(dtype) / counted.sum().clamp(min=1)

    def weight(self, targets: Tensor) -> Tensor | int:
        return len(targets) if self._labels.all_alike else self._labels.weights(targets).sum()

    def count(self, targets: Tensor) -> Tensor | int:
        return len(targets) if self._labels.ignore_index is None else self._labels.counting(targets).sum()

    def _of_samples(self, each: Tensor, targets: Tensor) -> Tensor:
        """The mean of each sample over its positions that count, weighed by their class."""
        rows = each.reshape(len(targets), -1)
        if self._labels.all_alike:
            return rows.mean(1)
        weights = self._labels.weights(targets).to(rows.dtype).reshape(rows.shape) / self._mean_weight
        counted = self._labels.counting(targets).reshape(rows.shape).sum(1)
        return (rows * weights).sum(1) / counted.clamp(min=1)


class Classification(LabelTask):
    """A label for each sample, or for each of its positions; cross-entropy trains, the Brier score judges.

    Classes are in dimension 1: outputs [N, C] for targets [N], [N, C, ...] for [N, ...]. A sample is one unit: its
    score is the mean over its positions.
    """

    def __init__(self, splits: Splits, settings: LossSettings = PLAIN) -> None:
        is_dense = splits.train.targets.ndim > 1
        is_cuda = splits.train.targets.is_cuda
        # CUDA has no deterministic cross-entropy of positions, but one of rows.
        rows = _rows_of_positions if is_dense and is_cuda else None
        labels = Labels(splits.ignore_index, class_weights(settings, splits, splits.outputs))
        loss: Callable[[Tensor, Tensor], Tensor] = CrossEntropy(labels, settings.label_smoothing, rows)
        if labels.all_alike and not settings.label_smoothing:
            loss = F.cross_entropy if rows is None else by_rows
        super().__init__(splits, loss, labels)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        probabilities = outputs.float().softmax(1)
        truth = F.one_hot(self._labels.known(targets), probabilities.shape[1]).movedim(-1, 1)
        return self._of_samples((probabilities - truth).square().sum(1), targets)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets


class Logits(LabelTask):
    """A yes or no for each output: one for a sample or a position, or one for each of several labels.

    The score is the Brier score of both answers, 2 (p - y)^2, a mean over what a sample is asked: for one logit that of
    two classes.
    """

    def __init__(self, splits: Splits, settings: LossSettings = PLAIN) -> None:
        is_binary = splits.label_kind == LabelKind.BINARY
        if not is_binary:
            replace(settings, label_smoothing=0.0).refuse("several labels")
        labels = Labels(splits.ignore_index, class_weights(settings, splits, 2) if is_binary else None)
        super().__init__(splits, LogitCrossEntropy(labels, settings.label_smoothing), labels)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._of_samples(2 * (outputs.float().sigmoid() - self._labels.known(targets)).square(), targets)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs > 0) == (targets > 0.5)


class SoftLabels(LabelTask):
    """The share of each class; the likeliest one is right."""

    def __init__(self, splits: Splits, settings: LossSettings = PLAIN) -> None:
        replace(settings, label_smoothing=0.0).refuse("shares of classes")
        super().__init__(splits, SoftCrossEntropy(settings.label_smoothing), Labels(None, None))

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._of_samples((outputs.float().softmax(1) - targets).square().sum(1), targets)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets.argmax(1)


class LanguageModel(LabelTask):
    """The next token at each position; a sequence is one sample."""

    def __init__(self, splits: Splits, settings: LossSettings = PLAIN) -> None:
        replace(settings, label_smoothing=0.0).refuse("a language model")
        labels = Labels(splits.ignore_index, None)
        is_plain = labels.all_alike and not settings.label_smoothing
        loss = _token_loss if is_plain else CrossEntropy(labels, settings.label_smoothing, _rows_of_tokens)
        super().__init__(splits, loss, labels)
        self._clip = CLIP_IN_UNIFORM_GUESSES * log(splits.outputs)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.clipped_scores(outputs, targets)[0]

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        known = self._labels.known(targets)
        nats = F.cross_entropy(outputs.float().flatten(0, 1), known.flatten(), reduction="none").view_as(targets)
        if self._labels.all_alike:
            return nats.clamp(max=self._clip).mean(-1), (nats > self._clip).float().mean(-1)
        clipped = (nats > self._clip).float()
        return self._of_samples(nats.clamp(max=self._clip), targets), self._of_samples(clipped, targets)


class Regression(SplitTask):
    """Numbers; the squared error trains, its clipped value judges."""

    def __init__(self, splits: Splits, settings: LossSettings = PLAIN) -> None:
        settings.refuse("a regression")
        super().__init__(splits, F.mse_loss, counts_hits=False)
        self._variance = float(splits.train.targets.var(dim=0, correction=0).mean())
        self._clip = CLIP_IN_VARIANCES * self._variance

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.float() - targets).square().clamp(max=self._clip).reshape(len(targets), -1).mean(1)

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As shares of the targets' variance, whatever their unit: a margin is to mean the same for all of them."""
        scores, clipped = super().clipped_scores(outputs, targets)
        return scores / max(self._variance, torch.finfo(torch.float32).tiny), clipped

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        errors = outputs.double() - targets
        return {"squares": errors.square().sum(), "amounts": errors.abs().sum()}

    def spread(self, split: Any) -> dict[str, Tensor]:
        return {"variance": split.targets.double().var(dim=0, correction=0).sum() * len(split)}

    def metrics(self, sums: Mapping[str, float], split: Any) -> dict[str, float]:
        """The share of the variance that is explained (0 for always naming each value's mean), and the mean error."""
        found = {"MAE": sums["amounts"] / split.targets.numel()}
        return {"R2": 1 - sums["squares"] / sums["variance"], **found} if sums["variance"] > 0 else found


LABEL_TASKS: dict[LabelKind, Callable[[Splits, LossSettings], SplitTask]] = {
    LabelKind.ONE: Classification,
    LabelKind.BINARY: Logits,
    LabelKind.MULTI_LABEL: Logits,
    LabelKind.SOFT: SoftLabels,
}
TASKS: dict[TaskType, Callable[[Splits, LossSettings], SplitTask]] = {
    TaskType.TASK_TYPE_LANGUAGE_MODEL: LanguageModel,
    TaskType.TASK_TYPE_REGRESSION: Regression,
}


def make_task(splits: Splits, settings: LossSettings = PLAIN) -> SplitTask:
    """The task that the data poses, with the loss that is wished. Raises ConfigError where they don't go together."""
    is_labelled = splits.task == TaskType.TASK_TYPE_CLASSIFICATION
    make = LABEL_TASKS[splits.label_kind] if is_labelled else TASKS[splits.task]
    return make(splits, settings)


def by_rows(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of positions [N, C, ...], each as a row of its own."""
    return F.cross_entropy(*_rows_of_positions(outputs, targets))


def _token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(*_rows_of_tokens(outputs, targets))


def _rows_of_positions(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return outputs.movedim(1, -1).flatten(0, -2), targets.flatten()


def _rows_of_tokens(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return outputs.flatten(0, 1), targets.flatten()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network reaches on a set."""

    loss: float
    accuracy: float | None
    metrics: Mapping[str, float]
    """Further figures by name."""

    @property
    def figures(self) -> tuple[float, float | None]:
        """Those that every task has a place for."""
        return self.loss, self.accuracy

    def named(self, whose: str) -> dict[str, float]:
        """All of them by name, as those of another network than the one that is told of."""
        own = {"loss": self.loss} | ({} if self.accuracy is None else {"accuracy": self.accuracy})
        return {f"{whose} {name}": value for name, value in (own | dict(self.metrics)).items()}


def evaluate(arm: TrainingArm, task: SplitTask, split: Any) -> tuple[float, float | None]:
    """Mean loss and share right over a set, seeds included; the arm is left as it was."""
    return evaluated(arm, task, split).figures


def evaluated(arm: TrainingArm, task: SplitTask, split: Any) -> Evaluation:
    """The same with the task's own metrics."""
    names: list[str] = []
    whole: list[Tensor] = []

    def figures(batch: Batch) -> Tensor:
        """Loss and its weight, accuracy and its weight, and what else is summed up."""
        inputs, targets = batch
        outputs = in_full(task.forward(arm.model, inputs))
        found = [task.loss(outputs, targets), task.weight(targets)]
        if task.counts_hits:
            found += [task.accuracy(outputs, targets, torch.float64), task.count(targets)]
        sums = task.sums(outputs, targets)
        names[:] = sums
        if task.metric is not None:
            whole.append(outputs)
        return _doubles([*found, *sums.values()])

    # A figure of all outputs together wants them all in one place.
    ranks = task.ranks if task.metric is None else ALONE
    with arm.measured(key(0, "evaluate"), is_evaluation=True):
        rows = torch.stack(over(task.batches(split), figures, ranks))
        spread = task.spread(split)
        own = {} if task.metric is None else {task.metric.name: task.metric(torch.cat(whole), split.targets)}
    names = [*names_of_first(names, ranks), *spread]
    # One transfer; the device has waited for nothing before.
    told = iter(
        torch.cat([rows.T.flatten(), *(value.double().view(1).to(rows.device) for value in spread.values())]).tolist()
    )
    columns = [list(islice(told, len(rows))) for _ in range(rows.shape[1])]
    loss = _mean(columns[0], columns[1])
    share = _mean(columns[2], columns[3]) if task.counts_hits else None
    summed = columns[4 if task.counts_hits else 2 :]
    totals: dict[str, float] = {}
    for name, value in zip(names, [*map(sum, summed), *told], strict=True):
        totals[name] = totals.get(name, 0.0) + value
    metrics = task.metrics(totals, split) | {name: value for name, value in own.items() if isfinite(value)}
    return Evaluation(loss, share, metrics)


def _doubles(values: Sequence[Tensor | int]) -> Tensor:
    """Numbers of one place: float64 [n]; the first one says where that is, and nothing waits for it."""
    device = next(value.device for value in values if isinstance(value, Tensor))
    return torch.stack(
        [
            value.double() if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device=device)
            for value in values
        ]
    )


def _mean(values: Sequence[float], sizes: Sequence[float]) -> float:
    total: float = sum(map(mul, sizes, values))
    return total / (sum(sizes) or 1)


def in_full(outputs: Any) -> Any:
    """Outputs of a lowered precision as float32: sums over a vocabulary and over positions need it."""
    if not isinstance(outputs, Tensor):
        return mapped(outputs, lambda leaf: in_full(leaf) if isinstance(leaf, Tensor) else leaf)
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
