"""Which task a set of samples poses: as its source says, or as `--task` says instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import AUTO_TASK
from esper.tolaria.task.data.source import Split, Splits, whole_numbers

# With more classes for each label the labels are identifiers, and their logits would fill the memory.
MOST_CLASSES_PER_LABEL = 100
TASKS: tuple[TaskType, ...] = (
    TaskType.TASK_TYPE_CLASSIFICATION,
    TaskType.TASK_TYPE_LANGUAGE_MODEL,
    TaskType.TASK_TYPE_REGRESSION,
)


def task_named(setting: str) -> TaskType | None:
    """The task that `task` names; None where the source is to say it."""
    return None if setting == AUTO_TASK else next(task for task in TASKS if name_of(task) == setting)


def name_of(task: TaskType) -> str:
    """The task's name in the settings."""
    return short_name(TaskType, task).lower()


def posed(splits: Splits, setting: str) -> Splits:
    """The same samples under the task that `task` names. Raises ConfigError where they can't pose it."""
    task = task_named(setting)
    if task is None or task == splits.task:
        return splits
    return replace(splits, task=task, outputs=outputs_of(task, [split for _, split in splits.named()]))


def outputs_of(task: TaskType, sets: Sequence[Split]) -> int:
    """Classes up to the largest label, tokens up to the largest one, or components of a target."""
    if task == TaskType.TASK_TYPE_REGRESSION:
        return prod(sets[0].targets.shape[1:])
    seen = [whole_numbers("targets", split.targets) for split in sets]
    if task == TaskType.TASK_TYPE_LANGUAGE_MODEL:
        seen += [whole_numbers("inputs", split.inputs) for split in sets]
    largest = max(int(values.max()) for values in seen)
    labels = sum(values.numel() for values in seen)
    if largest >= MOST_CLASSES_PER_LABEL * labels:
        remedy = f"among only {labels:,} labels; number the classes from 0, or --task regression if they are amounts"
        raise ConfigError("data", f"label {largest:,}", remedy)
    return max(0, largest) + 1
