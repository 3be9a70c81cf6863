"""A run says what it learns, and what in the data may be a mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.data.facts import described, doubts, largest_share

CLASSIFICATION = TaskType.TASK_TYPE_CLASSIFICATION
LANGUAGE_MODEL = TaskType.TASK_TYPE_LANGUAGE_MODEL
REGRESSION = TaskType.TASK_TYPE_REGRESSION


def splits(targets: Tensor, task: TaskType, outputs: int, scale: float = 1.0) -> Splits:
    part = Split(scale * torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(0)), targets)
    return Splits(train=part, judge=part, test=part, task=task, outputs=outputs)


@pytest.mark.parametrize(
    ("targets", "task", "outputs", "line"),
    [
        (torch.tensor([0, 0, 1, 1, 1, 2, 2]), CLASSIFICATION, 3, "classification, 3 classes, smallest 2"),
        (torch.tensor([0, 0, 1, 1, 1, 2, 2]), CLASSIFICATION, 1001, "classification, 1,001 classes, smallest 0"),
        (torch.zeros(7), CLASSIFICATION, 1, "classification, 1 class, smallest 7"),
        (torch.arange(4).repeat(2, 3), CLASSIFICATION, 4, "classification, 4 classes, smallest 6 positions"),
        (torch.zeros(2, 5), LANGUAGE_MODEL, 50257, "language_model, 50,257 tokens, 5 in a sequence"),
        (torch.tensor([1.0, 3.0]), REGRESSION, 1, "regression, 1 value a sample, standard deviation 1"),
        (torch.eye(2), REGRESSION, 2, "regression, 2 values a sample, standard deviation 0.5"),
    ],
)
def test_the_task_is_told_in_a_line(targets: Tensor, task: TaskType, outputs: int, line: str) -> None:
    assert described(splits(targets, task, outputs)) == line


def test_the_line_says_of_how_many_documents_the_judging_set_is() -> None:
    data = splits(torch.zeros(6, 5), LANGUAGE_MODEL, 9)
    judged = replace(data.judge, documents=torch.tensor([4, 4, 8, 1, 1, 8]))
    line = "language_model, 9 tokens, 5 in a sequence, judged by 3 documents"
    assert described(replace(data, judge=judged)) == line


def test_data_that_gives_no_cause_raises_no_doubt() -> None:
    for data in (
        splits(torch.arange(30) % 3, CLASSIFICATION, 3),
        splits(torch.randn(30, 2), REGRESSION, 2),
        splits(torch.zeros(4, 3), LANGUAGE_MODEL, 5),
    ):
        assert doubts(data, is_guessed=True) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (splits(torch.tensor([0, 0, 1, 1, 1000, 1000]), CLASSIFICATION, 1001), "a training sample: 998 of 1,001"),
        (splits(torch.tensor([0, 0, 1, 1, 2]), CLASSIFICATION, 3), "with a single training sample: 1 of 3"),
        (splits(torch.zeros(5), CLASSIFICATION, 1), "one class only"),
        (splits(torch.arange(30) % 3, CLASSIFICATION, 3, scale=255.0), "inputs are of the order of 2"),
        (
            splits(torch.arange(30) % 3, CLASSIFICATION, 3, scale=1e-5),
            "inputs are of the order of 1.1e-05 (root mean square)",
        ),
        (splits(torch.arange(30) % 3, CLASSIFICATION, 3, scale=0.0), "all inputs are the same"),
        (splits(torch.tensor([1e5, -1e5, 0.5]), REGRESSION, 1), "targets are of the order of 8.2e+04"),
        (splits(torch.full((30,), 0.5), REGRESSION, 1), "all targets are the same"),
        (splits((torch.arange(30) % 3).float(), REGRESSION, 1), "look like 3 different whole numbers; --task"),
        (splits(torch.eye(3).repeat(10, 1), REGRESSION, 3), "look like one-hot rows; give labels"),
    ],
)
def test_each_cause_for_doubt_is_a_line(data: Splits, says: str) -> None:
    found = doubts(data, is_guessed=True)
    assert len(found) == 1
    assert says in found[0]
    assert "\n" not in found[0]


def test_a_named_task_is_not_doubted_itself() -> None:
    assert doubts(splits((torch.arange(30) % 3).float(), REGRESSION, 1), is_guessed=False) == []
    stray = splits(torch.tensor([0, 0, 1, 1, 5, 5]), CLASSIFICATION, 6)
    assert "--task" in doubts(stray, is_guessed=True)[0]
    assert "--task" not in doubts(stray, is_guessed=False)[0]


def test_labels_from_1_are_asked_about_and_other_empty_classes_are_not() -> None:
    (line,) = doubts(splits(torch.arange(30) % 3 + 1, CLASSIFICATION, 4), is_guessed=False)
    assert line == "classes without a training sample: 1 of 4, the first: are labels numbered from 1? subtract 1"
    for labels in (torch.arange(30) % 3, torch.arange(30) % 2 + 2):
        (line,) = doubts(splits(labels, CLASSIFICATION, 4), is_guessed=False)
        assert "numbered" not in line


@pytest.mark.parametrize(
    ("data", "share"),
    [
        (splits(torch.tensor([0, 0, 0, 1]), CLASSIFICATION, 2), 0.75),
        (splits(torch.tensor([[0, 0], [1, 1], [0, 2]]), CLASSIFICATION, 3), 0.5),
        (splits(torch.zeros(4, 3), LANGUAGE_MODEL, 5), None),
        (splits(torch.zeros(4), REGRESSION, 1), None),
    ],
)
def test_the_largest_class_has_its_share_of_the_test_labels(data: Splits, share: float | None) -> None:
    assert largest_share(data) == share
