"""The same samples can pose another task than the one their source says."""

from __future__ import annotations

import pytest
import torch

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.data.posing import TASKS, name_of, posed, task_named


def splits(targets: torch.Tensor, task: TaskType, outputs: int, inputs: torch.Tensor | None = None) -> Splits:
    part = Split(torch.zeros(len(targets), 4) if inputs is None else inputs, targets)
    return Splits(train=part, judge=part, test=part, task=task, outputs=outputs)


def test_every_task_has_a_name_and_auto_leaves_it_to_the_source() -> None:
    assert [task_named(name_of(task)) for task in TASKS] == list(TASKS)
    assert task_named("auto") is None
    given = splits(torch.arange(6) % 3, TaskType.TASK_TYPE_CLASSIFICATION, 7)
    assert posed(given, "auto") is posed(given, "classification") is given


def test_labels_stored_as_floating_point_numbers_become_classes_when_asked() -> None:
    given = splits((torch.arange(6) % 3).float(), TaskType.TASK_TYPE_REGRESSION, 1)
    asked = posed(given, "classification")
    assert (asked.task, asked.outputs) == (TaskType.TASK_TYPE_CLASSIFICATION, 3)
    assert torch.equal(asked.train.targets, torch.arange(6) % 3)


def test_labels_become_numbers_when_asked() -> None:
    given = splits(torch.arange(6), TaskType.TASK_TYPE_CLASSIFICATION, 6)
    asked = posed(given, "regression")
    assert (asked.task, asked.outputs) == (TaskType.TASK_TYPE_REGRESSION, 1)
    assert torch.equal(asked.train.targets, torch.arange(6.0))


def test_a_vocabulary_holds_the_tokens_of_inputs_and_targets() -> None:
    tokens = torch.arange(24).reshape(6, 4)
    given = splits(tokens % 5, TaskType.TASK_TYPE_CLASSIFICATION, 5, inputs=tokens)
    asked = posed(given, "language_model")
    assert (asked.task, asked.outputs) == (TaskType.TASK_TYPE_LANGUAGE_MODEL, 24)


@pytest.mark.parametrize(
    ("targets", "setting", "says"),
    [
        (torch.rand(6, 1), "classification", "whole numbers"),
        (torch.zeros(6), "language_model", "next token at each position"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 1e9]), "classification", "number the classes from 0"),
    ],
)
def test_samples_that_cannot_pose_the_task_are_refused(targets: torch.Tensor, setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        posed(splits(targets, TaskType.TASK_TYPE_REGRESSION, 1), setting)
