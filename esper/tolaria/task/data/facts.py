"""What a run says of its task before it starts: the task in a line, and what in the training data gives cause to doubt.

A task is often guessed from the data, and a wrong guess trains without complaint; so it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from esper.core.counted import counted
from esper.leyline import TaskType
from esper.tolaria.task.data.posing import name_of
from esper.tolaria.task.data.source import LabelKind, Splits, are_one_hot, counting

# Networks start from weights for inputs of about 1; root mean squares beyond these rarely mean well.
TAMEST_SCALE = 1e-3
WILDEST_SCALE = 30.0
# So few different whole numbers look like classes that were stored as floating-point numbers.
MOST_CLASSES_IN_DISGUISE = 100


def described(splits: Splits) -> str:
    """The task in a few words: "classification, 3 classes, smallest 612", counted in the training set.

    Where samples are of documents it says of how many in the judging set: those are what growth is judged by.
    """
    return f"{_posed(splits)}{_judged_by(splits)}"


def _judged_by(splits: Splits) -> str:
    """The independent units of the judging set, behind a comma; nothing where they are the samples."""
    count = splits.judge.document_count
    return "" if count is None else f", judged by {counted(count, 'document')}"


def _posed(splits: Splits) -> str:
    targets = splits.train.targets
    if splits.label_kind in (LabelKind.MULTI_LABEL, LabelKind.SOFT):
        of_what = "labels" if splits.label_kind == LabelKind.MULTI_LABEL else "classes"
        rarest = float(_sums(splits).min())
        return f"{splits.label_kind}, {splits.outputs:,} {of_what}, rarest {rarest:,.6g}"
    if splits.label_kind == LabelKind.BINARY:
        counts = _class_sizes(splits)
        return f"{splits.label_kind}, one output, smaller class {int(counts.min()) if len(counts) == 2 else 0:,}"
    if splits.task == TaskType.TASK_TYPE_CLASSIFICATION:
        counts = _class_sizes(splits)
        smallest = 0 if len(counts) < splits.outputs else int(counts.min())
        of_what = " positions" if targets[0].numel() > 1 else ""
        classes = counted(splits.outputs, "class", "classes")
        return f"{name_of(splits.task)}, {classes}, smallest {smallest:,}{of_what}"
    if splits.task == TaskType.TASK_TYPE_LANGUAGE_MODEL:
        return f"{name_of(splits.task)}, {splits.outputs:,} tokens, {targets[0].numel():,} in a sequence"
    values = counted(splits.outputs, "value")
    return f"{name_of(splits.task)}, {values} a sample, standard deviation {_deviation(targets):.3g}"


def doubts(splits: Splits, *, is_guessed: bool) -> list[str]:
    """What a person should look at before such data trains a network, a line each.

    `is_guessed` says that the task is the data's, not named in the settings: then it may be meant otherwise.
    """
    is_regression = splits.task == TaskType.TASK_TYPE_REGRESSION
    found = [*splits.doubts, *_of_inputs(splits), *(_of_numbers(splits) if is_regression else ())]
    if splits.left_out:
        found.append(f"samples left out because no target of theirs counts: {splits.left_out:,}")
    if splits.has_numbered_classes:
        hint = "; --task regression if targets are amounts" if is_guessed else ""
        found += [f"{text}{hint}" for text in _of_classes(splits)]
    if splits.label_kind in (LabelKind.MULTI_LABEL, LabelKind.SOFT) and (never := int((_sums(splits) == 0).sum())):
        found.append(f"labels that no training sample has: {never:,} of {splits.outputs:,}")
    if is_regression and is_guessed:
        found += [
            f"targets are learned as amounts but look like {looks}"
            for looks in _classes_in_disguise(splits.train.targets)
        ]
    return found


def largest_share(splits: Splits) -> float | None:
    """The share of test labels that are of the most frequent class there, 0..1; None where the task has no classes.

    Always naming that class has this accuracy.
    """
    if not splits.has_numbered_classes:
        return None
    targets = splits.test.targets[counting(splits.test.targets, splits.ignore_index)]
    return int(torch.unique(targets, return_counts=True)[1].max()) / targets.numel()


def _of_inputs(splits: Splits) -> Iterator[str]:
    inputs = splits.train.inputs
    if not inputs.is_floating_point():
        return
    scale = _scale(inputs)
    if bool((inputs == inputs[:1]).all()) and len(inputs) > 1:
        yield "all inputs are the same: there is nothing to tell samples apart by"
    elif not TAMEST_SCALE <= scale <= WILDEST_SCALE:
        yield f"inputs are of the order of {scale:.2g} (root mean square); scale them to about 1"


def _of_numbers(splits: Splits) -> Iterator[str]:
    targets = splits.train.targets
    deviation = _deviation(targets)
    if deviation == 0.0:
        yield "all targets are the same: there is nothing to learn"
    elif not TAMEST_SCALE <= max(deviation, _scale(targets)) <= WILDEST_SCALE:
        yield f"targets are of the order of {_scale(targets):.2g} (root mean square); scale them to about 1"


def _of_classes(splits: Splits) -> Iterator[str]:
    counts = _class_sizes(splits)
    empty, single = splits.classes - len(counts), int((counts == 1).sum())
    if splits.classes == 1:
        yield "there is one class only: nothing to learn"
    elif empty:
        is_from_one = empty == 1 and int(_labels(splits).min()) == 1
        hint = ", the first: are labels numbered from 1? subtract 1" if is_from_one else ""
        yield f"classes without a training sample: {empty:,} of {splits.classes:,}{hint}"
    if single:
        yield f"classes with a single training sample: {single:,} of {splits.classes:,}"


def _class_sizes(splits: Splits) -> Tensor:
    """Labels of each class that occurs in the training set."""
    counts: Tensor = torch.unique(_labels(splits), return_counts=True)[1]
    return counts


def _sums(splits: Splits) -> Tensor:
    """How often each label stands in the training set: a sum of its shares."""
    targets = splits.train.targets
    counted = targets.where(counting(targets, splits.ignore_index), 0)
    return counted.movedim(1, -1).flatten(0, -2).double().sum(0)


def _labels(splits: Splits) -> Tensor:
    """The training labels that count."""
    targets = splits.train.targets
    return targets[counting(targets, splits.ignore_index)]


def _classes_in_disguise(targets: Tensor) -> Iterator[str]:
    """What numbers look like that were classes once."""
    if are_one_hot(targets):
        yield "one-hot rows; give labels, targets.argmax(1), if they are classes"
    elif targets.ndim == 2 and targets.shape[1] > 1 and bool(((targets == 0) | (targets == 1)).all()):
        yield "zeros and ones; --task multi_label if they are labels"
    elif targets[0].numel() == 1 and bool((targets == targets.round()).all()):
        values = len(torch.unique(targets))
        if 1 < values <= MOST_CLASSES_IN_DISGUISE and 2 * values <= len(targets):
            yield f"{values} different whole numbers; --task classification if they are classes"


def _scale(values: Tensor) -> float:
    """Root mean square."""
    precision = torch.promote_types(values.dtype, torch.float32)
    return float(torch.linalg.vector_norm(values, dtype=precision)) / math.sqrt(values.numel())


def _deviation(targets: Tensor) -> float:
    """Standard deviation of the targets, each component about its own mean."""
    return math.sqrt(float(targets.double().var(dim=0, correction=0).mean()))
