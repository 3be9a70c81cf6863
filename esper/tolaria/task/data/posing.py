"""Which task a set of samples poses: as its source says, or as `--task` says instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import AUTO_TASK
from esper.tolaria.task.data.source import Split, Splits, counting, whole_numbers

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
    sets = [split for _, split in splits.named()]
    return replace(splits, task=task, outputs=outputs_of(task, sets, splits.ignore_index))


def counted(splits: Splits, ignore_index: int | None) -> Splits:
    """The sets without the samples that have no target that counts: those are no units to learn from or to judge by."""
    label = splits.ignore_index if ignore_index is None else ignore_index
    if label is None:
        return splits
    if splits.task == TaskType.TASK_TYPE_REGRESSION:
        raise ConfigError("ignore_index", label, "names a label, and a regression has none; leave it out")
    splits = replace(splits, ignore_index=label)

    def of_use(split: Split) -> Split:
        return split.take(counting(split.targets, label).reshape(len(split), -1).any(1))

    kept = splits.mapped(of_use)
    left_out = sum(len(split) for _, split in splits.named()) - sum(len(split) for _, split in kept.named())
    return replace(kept, left_out=left_out) if left_out else splits


def outputs_of(task: TaskType, sets: Sequence[Split], ignore_index: int | None = None) -> int:
    """Classes up to the largest label, tokens up to the largest one, or components of a target."""
    if task == TaskType.TASK_TYPE_REGRESSION:
        return prod(sets[0].targets.shape[1:])
    labelled = [whole_numbers("targets", split.targets) for split in sets]
    seen = [labels[counting(labels, ignore_index)] for labels in labelled]
    if not any(labels.numel() for labels in seen):
        raise ConfigError("ignore_index", ignore_index, "is every label of the data: none counts")
    if task == TaskType.TASK_TYPE_LANGUAGE_MODEL:
        seen += [whole_numbers("inputs", split.inputs) for split in sets]
    largest = max(int(values.max()) for values in seen if values.numel())
    labels = sum(values.numel() for values in seen)
    if largest >= MOST_CLASSES_PER_LABEL * labels:
        remedy = f"among only {labels:,} labels; number the classes from 0, or --task regression if they are amounts"
        raise ConfigError("data", f"label {largest:,}", remedy)
    return max(0, largest) + 1
