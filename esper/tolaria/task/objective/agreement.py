"""A model's outputs and the data's targets, compared before the first step: shapes, classes, batch sizes, the loss.

Targets that differ from the outputs in dimensions of one are brought into the outputs' shape, because a loss would
broadcast them; whatever else differs is refused in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.judge.incubate import share_of
from esper.kasmina.executor.passes.batches import Batch, called, logits_in, samples_in
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.posing import task_name
from esper.tolaria.task.data.source import LabelKind, Splits, are_one_hot
from esper.tolaria.task.objective.task import SplitTask
from esper.tolaria.task.precision import autocast
from esper.tolaria.task.randomness import key

EXAMPLES = 2
# What a network or a loss raises for what it can't take.
MISFITS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)

Shape = tuple[int, ...]


class Batches(Protocol):
    """Training batches by step."""

    steps_per_epoch: int
    is_replayable: bool

    def batch(self, step: int) -> Batch:
        """Inputs and targets of the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """Shapes of a task, for one sample: what outputs its targets ask for, and what targets its outputs ask for."""

    outputs: Callable[[Shape, int], Shape]
    targets: Callable[[Shape], Shape]
    where: str


FORMS: dict[TaskType, Form] = {
    TaskType.TASK_TYPE_CLASSIFICATION: Form(
        outputs=lambda targets, classes: (classes, *targets),
        targets=lambda outputs: outputs[1:],
        where="a score for each of {0} classes, in dimension 1",
    ),
    TaskType.TASK_TYPE_LANGUAGE_MODEL: Form(
        outputs=lambda targets, tokens: (*targets, tokens),
        targets=lambda outputs: outputs[:-1],
        where="a score for each of {0} tokens, in the last dimension",
    ),
    TaskType.TASK_TYPE_REGRESSION: Form(
        outputs=lambda targets, values: targets,
        targets=lambda outputs: outputs,
        where="as many values as its targets have",
    ),
}


# Targets that say something of each output: they have its shape.
ALIKE = Form(
    outputs=lambda targets, outputs: targets,
    targets=lambda outputs: outputs,
    where="a logit for each number of its targets",
)


def form_of(splits: Splits) -> Form:
    """The shapes that the data's task asks for."""
    return FORMS[splits.task] if splits.label_kind == LabelKind.ONE else ALIKE


def agreed(config: TrainConfig, model: nn.Module, splits: Splits) -> Splits:
    """The same samples, their targets in the shape of the model's outputs. Raises ConfigError where they differ."""
    example = splits.train.inputs[:EXAMPLES]
    with side_pass([model], key=key(0, "outputs"), training=False), torch.no_grad():
        outputs = _forward(config.model, model, example)
    arrived, given = tuple(outputs.shape[1:]), tuple(splits.train.targets.shape[1:])
    if splits.has_numbered_classes and splits.outputs == 2 and _without_ones(arrived) == _without_ones(given):
        # One output where there are two classes: whether it is the second.
        splits = replace(splits, label_kind=LabelKind.BINARY, outputs=1)
    form = form_of(splits)
    wanted = form.targets(arrived)
    fits = form.outputs(wanted, splits.outputs) == arrived and _can_become(given, wanted)
    if len(outputs) != len(example) or not fits:
        raise _difference(config.model, splits, outputs)
    if wanted == given:
        return splits
    return splits.mapped(lambda split: replace(split, targets=split.targets.reshape(len(split), *wanted)))


def as_posed(config: TrainConfig, model: nn.Module, splits: Splits) -> Splits | None:
    """What `agreed` gives; None where the model's outputs are of another form than the data's task asks for."""
    try:
        return agreed(config, model, splits)
    except ConfigError:
        return None


def check_passes(config: TrainConfig, model: nn.Module, task: SplitTask, loader: Batches, splits: Splits) -> None:
    """Make every kind of pass once: the largest and the smallest in training, and those of the evaluations.

    Leaves the model as it was. Raises ConfigError for a size that it can't take, and for a loss that can't be used.
    """
    sample = tuple(splits.train.targets.shape[1:])
    expected = form_of(splits).outputs(sample, splits.outputs) if task.has_posed_outputs else None
    with side_pass([model], key=key(0, "passes"), training=None), torch.enable_grad():
        _check_training(config, model, task, loader, expected)
    sizes = {len(batch[0]): batch[0] for split in (splits.judge, splits.test) for batch in task.batches(split)}
    with side_pass([model], key=key(0, "passes"), training=False), torch.no_grad():
        for inputs in sizes.values():
            _forward(config.model, model, inputs, expected)


def training_sizes(config: TrainConfig, loader: Batches) -> set[int]:
    """Samples in a training pass: a batch or its microbatches, and an incubating seed's share."""
    steps = (0, loader.steps_per_epoch - 1) if loader.is_replayable else (0,)
    batches = {samples_in(loader.batch(step)[0]) for step in steps}
    sizes = {-(-size // config.accumulate) for size in batches}
    sizes |= {size // config.accumulate for size in batches if size >= config.accumulate}
    if config.grow != "never" and config.incubate == "shadow":
        sizes |= {share_of(size) for size in batches}
    return sizes


def _check_training(
    config: TrainConfig, model: nn.Module, task: SplitTask, loader: Batches, expected: Shape | None
) -> None:
    sizes = training_sizes(config, loader)
    for samples in sorted({min(sizes), max(sizes)}, reverse=True):
        inputs, targets = (part[:samples] for part in loader.batch(0))
        with autocast(config.amp, inputs.device):
            try:
                outputs = _forward(config.model, model, inputs, expected)
            except ConfigError as error:
                if samples == max(sizes) > 1:
                    raise
                cut = f"cut into {config.accumulate} parts, " if config.accumulate > 1 else ""
                less = " or a smaller --accumulate" if config.accumulate > 1 else ""
                passes = f"{cut}leaves passes of {samples} in training, where {config.model} {error.remedy}"
                remedy = f"{passes}; give a larger --batch-size{less}"
                raise ConfigError("batch_size", config.batch_size, remedy) from error
            _check_loss(config.model, task, outputs, targets)


def _forward(name: str, model: nn.Module, inputs: Tensor, expected: Shape | None = None) -> Tensor:
    """The outputs for some samples: one floating-point tensor, a row for each; `expected` is the shape of a row."""
    arrived = f"samples of {tuple(inputs.shape)} ({_type(inputs)})"
    try:
        outputs = logits_in(called(model, inputs))
    except MISFITS as error:
        raise ConfigError(
            "model", name, f"can't take {arrived}: {reason_of(error)}{_other_type(model, inputs)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise ConfigError("model", name, f"gives {_kind(outputs)}, expected one tensor; wrap it and return that alone")
    if outputs.ndim == 0 or not outputs.is_floating_point():
        what = f"{_type(outputs)} of shape {tuple(outputs.shape)}"
        raise ConfigError("model", name, f"gives {what}, expected floating-point rows: scores or values, no choices")
    if expected is not None and outputs.shape != (len(inputs), *expected):
        what = f"gives {tuple(outputs.shape)} for {arrived}, expected {(len(inputs), *expected)}"
        raise ConfigError("model", name, what)
    return outputs


def _can_become(given: Shape, wanted: Shape) -> bool:
    """Whether targets may be reshaped: they differ in dimensions of one, or are flattened altogether."""
    return _without_ones(given) == _without_ones(wanted) or (len(wanted) == 1 and prod(given) == wanted[0])


def _difference(name: str, splits: Splits, outputs: Tensor) -> ConfigError:
    if splits.has_numbered_classes and (kind := _no_labels(splits.train.targets)):
        return ConfigError("data", f"targets of shape {tuple(splits.train.targets.shape)}", kind)
    given, form, rows = splits.train.targets.shape[1:], form_of(splits), min(EXAMPLES, len(splits.train))
    # A last dimension of one is that of labels kept in a column.
    sample = tuple(given) if given != (1,) or splits.task == TaskType.TASK_TYPE_REGRESSION else ()
    expected = (rows, *form.outputs(sample, splits.outputs))
    remedy = (
        f"gives {tuple(outputs.shape)} for {rows} samples with targets of {(rows, *given)}; "
        f"{task_name(splits)} expected {expected}: {form.where.format(splits.outputs)}"
    )
    return ConfigError("model", name, remedy)


def _no_labels(targets: Tensor) -> str | None:
    """What rows of zeros and ones are that no model's outputs fit as labels of positions, and what to do."""
    if are_one_hot(targets):
        return "look like one-hot rows; give labels: targets.argmax(1)"
    if targets.ndim == 2 and targets.shape[1] > 1 and bool(((targets == 0) | (targets == 1)).all()):
        return "look like several labels for each sample, where one is expected; --task multi_label learns all of them"
    return None


def _check_loss(name: str, task: SplitTask, outputs: Tensor, targets: Tensor) -> None:
    task.check_loss(outputs, targets)
    try:
        loss = task.loss(outputs, targets)
    except MISFITS as error:
        raise ConfigError("model", name, f"gives outputs that the loss can't take: {reason_of(error)}") from error
    if not bool(torch.isfinite(loss)):
        remedy = (
            f"its loss is {float(loss.detach())} before any step; look at the scale of the inputs and of its weights"
        )
        raise ConfigError("model", name, remedy)
    if not loss.requires_grad:
        raise ConfigError("model", name, "its loss has no gradient: look for detach(), no_grad() or frozen weights")


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _other_type(model: nn.Module, inputs: Tensor) -> str:
    """What to do where inputs and weights are numbers of different types."""
    weights = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), inputs)
    looks_up = any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) for part in model.modules())
    if looks_up and inputs.is_floating_point() and bool((inputs == inputs.round()).all()):
        return "; sets are held in float32: call .long() on them in forward, or give a Dataset, which keeps its types"
    if not inputs.is_floating_point() or weights.dtype == inputs.dtype:
        return ""
    return f"; its weights are {_type(weights)}: give inputs of that type, or change theirs"


def _type(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _kind(value: object) -> str:
    names = ", ".join(map(str, value)) if isinstance(value, dict) else ""
    return f"{type(value).__name__} of {names}" if names else type(value).__name__


def reason_of(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
