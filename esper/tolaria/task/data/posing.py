"""Which task a set of samples poses: as its source says, or as `--task` says instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import AUTO_TASK
from esper.tolaria.task.data.source import LabelKind, Split, Splits, counting, whole_numbers

# With more classes for each label the labels are identifiers, and their logits would fill the memory.
MOST_CLASSES_PER_LABEL = 100
TASKS: tuple[TaskType, ...] = (
    TaskType.TASK_TYPE_CLASSIFICATION,
    TaskType.TASK_TYPE_LANGUAGE_MODEL,
    TaskType.TASK_TYPE_REGRESSION,
)


def task_named(setting: str) -> TaskType | None:
    """The task that `task` names; None where the source is to say it."""
    if setting == AUTO_TASK:
        return None
    if setting in set(LabelKind):
        return TaskType.TASK_TYPE_CLASSIFICATION
    return next(task for task in TASKS if name_of(task) == setting)


def kind_named(setting: str) -> LabelKind:
    """The kind of labels that `task` names; one class of several, or what the targets tell, where it names none."""
    return LabelKind(setting) if setting in set(LabelKind) else LabelKind.ONE


def name_of(task: TaskType) -> str:
    """The task's name in the settings."""
    return short_name(TaskType, task).lower()


def task_name(splits: Splits) -> str:
    """What is learned, as the settings name it."""
    return name_of(splits.task) if splits.label_kind == LabelKind.ONE else splits.label_kind


def posed(splits: Splits, setting: str) -> Splits:
    """The same samples under the task that `task` names. Raises ConfigError where they can't pose it."""
    task = task_named(setting)
    kind = kind_named(setting)
    if task is None or (task == splits.task and kind in (LabelKind.ONE, splits.label_kind)):
        return splits
    sets = [split for _, split in splits.named()]
    outputs = outputs_of(task, sets, splits.ignore_index, kind)
    return replace(splits, task=task, outputs=outputs, label_kind=kind)


def counted(splits: Splits, ignore_index: int | None) -> Splits:
    """The sets without the samples that have no target that counts: those are no units to learn from or to judge by."""
    label = splits.ignore_index if ignore_index is None else ignore_index
    if label is None:
        return splits
    if splits.task == TaskType.TASK_TYPE_REGRESSION or splits.label_kind == LabelKind.SOFT:
        what = "shares of classes have" if splits.label_kind == LabelKind.SOFT else "a regression has"
        raise ConfigError("ignore_index", label, f"names a label, and {what} none; leave it out")
    splits = replace(splits, ignore_index=label)

    def of_use(split: Split) -> Split:
        return split.take(counting(split.targets, label).reshape(len(split), -1).any(1))

    kept = splits.mapped(of_use)
    left_out = sum(len(split) for _, split in splits.named()) - sum(len(split) for _, split in kept.named())
    return replace(kept, left_out=left_out) if left_out else splits


def outputs_of(
    task: TaskType, sets: Sequence[Split], ignore_index: int | None = None, kind: LabelKind = LabelKind.ONE
) -> int:
    """Classes up to the largest label, tokens up to the largest one, components of a target, or labels in a row."""
    if kind == LabelKind.BINARY:
        return 1
    if kind != LabelKind.ONE:
        if sets[0].targets.ndim < 2:
            shape = tuple(sets[0].targets.shape)
            raise ConfigError(
                "data", f"targets of shape {shape}", f"{kind} wants a number for each: [samples, classes]"
            )
        return sets[0].targets.shape[1]
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
