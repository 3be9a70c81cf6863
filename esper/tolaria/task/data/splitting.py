"""Cutting samples into training, judging and test sets: exact sizes, each class in its share."""

from __future__ import annotations

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.randomness import generator

JUDGE_SHARE = 356 / 1797
TEST_SHARE = 291 / 1797


def set_sizes(samples: int) -> tuple[int, int, int]:
    """Sizes of the three sets for so many samples: 64 %, 20 % and 16 %."""
    judge, test = round(samples * JUDGE_SHARE), round(samples * TEST_SHARE)
    if min(judge, test) < 1:
        raise ConfigError("data", f"{samples} samples", "too few for three disjoint sets; at least 10 are needed")
    return samples - judge - test, judge, test


def stratified_rows(labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the three sets; within each class the order is drawn from the seed."""
    shuffled = torch.randperm(len(labels), generator=generator(seed, "split"))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    _, judge, test = set_sizes(len(labels))
    rest, test_rows = _every_nth(by_class, test)
    train_rows, judge_rows = _every_nth(rest, judge)
    return train_rows, judge_rows, test_rows


def stratified_subset(labels: Tensor, samples: int, seed: int) -> Tensor:
    """Rows of a subset with each class in its share."""
    if samples > len(labels):
        raise ConfigError("samples", samples, f"the source holds only {len(labels)}")
    shuffled = torch.randperm(len(labels), generator=generator(seed, "subset"))
    return _every_nth(shuffled[torch.argsort(labels[shuffled], stable=True)], samples)[1]


def classification(inputs: Tensor, labels: Tensor, outputs: int, seed: int) -> Splits:
    """Three stratified sets of a classification."""
    train, judge, test = (Split(inputs[rows], labels[rows]) for rows in stratified_rows(labels, seed))
    return Splits(train=train, judge=judge, test=test, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=outputs)


def _every_nth(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split off `count` rows at equal distances; returns (the others, those)."""
    steps = torch.arange(len(rows) + 1) * count // len(rows)
    is_taken = steps[1:] > steps[:-1]
    return rows[~is_taken], rows[is_taken]
