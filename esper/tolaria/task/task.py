"""What is to be learned: the loss that trains, the bounded score that judges, and the share that is right.

A score belongs to one sample (of a language model: a sequence) and is bounded, so that no single mistake can decide a
judgement: the Brier score for classes, the clipped loss otherwise. Where samples are of documents, those are the
independent units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from operator import mul

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.leyline import TaskType
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.randomness import key

JUDGE_BATCH = 512
PROBE_SAMPLES = 64
# A token counts no worse than one as unlikely as the square of a uniform guess. Early in small runs 5 % of bytes lose
# more than one guess, hardly any more than two; one of those moves a sequence of 64 by a thirty-second of a guess.
CLIP_IN_UNIFORM_GUESSES = 2.0
# Squared errors are clipped at so many variances of the training targets.
CLIP_IN_VARIANCES = 4.0


class SplitTask:
    """A task over the splits of a run; the executor judges with it, the stepper trains with it."""

    def __init__(self, splits: Splits, loss: Callable[[Tensor, Tensor], Tensor], *, counts_hits: bool) -> None:
        self.type = splits.task
        self.loss = loss
        self.counts_hits = counts_hits
        self._splits = splits
        documents = splits.judge.documents
        self.judge_documents = None if documents is None else documents.cpu()

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

    def judge_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All judging samples, in order."""
        return self.batches(self._splits.judge)

    def batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples of a set in order, in batches for evaluation."""
        rows = self._splits.rows_at_once(JUDGE_BATCH)
        for start in range(0, len(split), rows):
            yield split.inputs[start : start + rows], split.targets[start : start + rows]

    def probe_inputs(self) -> Tensor:
        """A few training inputs, always the same."""
        return self._splits.train.inputs[: self._splits.rows_at_once(PROBE_SAMPLES)]


class Classification(SplitTask):
    """A label for each sample, or for each of its positions; cross-entropy trains, the Brier score judges.

    Classes are in dimension 1: outputs [N, C] for targets [N], [N, C, ...] for [N, ...]. A sample is one unit: its
    score is the mean over its positions.
    """

    def __init__(self, splits: Splits) -> None:
        is_dense = splits.train.targets.ndim > 1
        is_cuda = splits.train.targets.is_cuda
        # CUDA has no deterministic cross-entropy of positions, but one of rows.
        super().__init__(splits, by_rows if is_dense and is_cuda else F.cross_entropy, counts_hits=True)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        probabilities = outputs.float().softmax(1)
        truth = F.one_hot(targets, probabilities.shape[1]).movedim(-1, 1)
        return (probabilities - truth).square().sum(1).reshape(len(targets), -1).mean(1)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets


class LanguageModel(SplitTask):
    """The next token at each position; a sequence is one sample."""

    def __init__(self, splits: Splits) -> None:
        super().__init__(splits, _token_loss, counts_hits=True)
        self._clip = CLIP_IN_UNIFORM_GUESSES * log(splits.outputs)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.clipped_scores(outputs, targets)[0]

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = F.cross_entropy(outputs.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        return nats.clamp(max=self._clip).mean(-1), (nats > self._clip).float().mean(-1)


class Regression(SplitTask):
    """Numbers; the squared error trains, its clipped value judges."""

    def __init__(self, splits: Splits) -> None:
        super().__init__(splits, F.mse_loss, counts_hits=False)
        self._variance = float(splits.train.targets.var(dim=0, correction=0).mean())
        self._clip = CLIP_IN_VARIANCES * self._variance

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.float() - targets).square().clamp(max=self._clip).reshape(len(targets), -1).mean(1)

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As shares of the targets' variance, whatever their unit: a margin is to mean the same for all of them."""
        scores, clipped = super().clipped_scores(outputs, targets)
        return scores / max(self._variance, torch.finfo(torch.float32).tiny), clipped


TASKS: dict[TaskType, Callable[[Splits], SplitTask]] = {
    TaskType.TASK_TYPE_CLASSIFICATION: Classification,
    TaskType.TASK_TYPE_LANGUAGE_MODEL: LanguageModel,
    TaskType.TASK_TYPE_REGRESSION: Regression,
}


def make_task(splits: Splits) -> SplitTask:
    """The task that the data poses."""
    return TASKS[splits.task](splits)


def by_rows(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of positions [N, C, ...], each as a row of its own."""
    return F.cross_entropy(outputs.movedim(1, -1).flatten(0, -2), targets.flatten())


def _token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def evaluate(arm: TrainingArm, task: SplitTask, split: Split) -> tuple[float, float | None]:
    """Mean loss and share right over a set, seeds included; the arm is left as it was."""
    sizes, losses, hits = [], [], []
    with arm.measured(key(0, "evaluate"), is_evaluation=True):
        for inputs, targets in task.batches(split):
            outputs = in_full(arm.model(inputs))
            sizes.append(len(inputs))
            losses.append(task.loss(outputs, targets).double())
            if task.counts_hits:
                hits.append(task.hits(outputs, targets).double().mean())
    # One transfer; the device has waited for nothing before.
    numbers = torch.stack([*losses, *hits]).tolist()
    totals = [sum(map(mul, sizes, part)) / len(split) for part in (numbers[: len(sizes)], numbers[len(sizes) :])]
    return totals[0], totals[1] if task.counts_hits else None


def in_full(outputs: Tensor) -> Tensor:
    """Outputs of a lowered precision as float32: sums over a vocabulary and over positions need it."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
