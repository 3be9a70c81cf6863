"""What every data source gives: three disjoint sets of samples, and what kind of task they pose.

Training data is what the network learns from, judging data decides whether a seed is kept, test data is only reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import index
from typing import Any, Protocol, SupportsIndex

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType

# Outputs that may stand in memory at once while a set is evaluated: half a GB of float32, and as much for their
# log-probabilities; 512 sequences of 512 tokens from 50,000 would be a hundred times as many.
VALUES_AT_ONCE = 2**27
# A source makes its sets without knowing the run's settings, and their labels are checked when they are made.
_IGNORED: ContextVar[int | None] = ContextVar("ignored label", default=None)


@dataclass(frozen=True, slots=True)
class Split:
    """Samples in rows, with their targets; plain data, whatever computed them or would learn from them."""

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None = None
    """The document that each sample is of, a number of one's own; None where samples are independent of each other.

    Samples of one document, patient or recording resemble each other: what is judged then counts documents.
    """

    def __post_init__(self) -> None:
        for name in ("inputs", "targets", "documents"):
            object.__setattr__(self, name, _without_history(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def document_count(self) -> int | None:
        """Documents that the samples are of; None where samples are independent."""
        return None if self.documents is None else len(set(self.documents.tolist()))

    def take(self, rows: Tensor) -> Split:
        """The named rows, in that order."""
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device) -> Split:
        """The same samples on a device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Split:
        documents = None if self.documents is None else change(self.documents)
        return Split(change(self.inputs), change(self.targets), documents)


@contextmanager
def ignoring(label: int | None) -> Iterator[None]:
    """Sets that are made meanwhile may hold this label for what counts for nothing."""
    token = _IGNORED.set(label)
    try:
        yield
    finally:
        _IGNORED.reset(token)


class LabelKind(StrEnum):
    """What the targets of a classification say of a sample, or of each of its positions."""

    ONE = "classification"
    """One class of several: its number."""
    BINARY = "binary"
    """Whether something is so, 0 or 1, to be told by one logit."""
    MULTI_LABEL = "multi_label"
    """Which of several labels it has: a 0 or 1 for each, [N, labels, ...]."""
    SOFT = "soft_labels"
    """How likely each class is: shares that sum to 1, [N, classes, ...]."""


class Stream(Protocol):
    """A training set too large to be held: sequences are drawn from it."""

    def __len__(self) -> int:
        """Sequences that have nothing in common."""

    def draw(self, count: int, draw: torch.Generator) -> Split:
        """So many sequences, on the CPU; equal generators give equal ones."""

    def digest(self) -> str:
        """SHA-256 over everything that can be drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The three sets of one run, checked and brought into one form when they are made.

    Labels and tokens become int64 whatever type they came in, numbers to predict become floating-point ones.
    """

    train: Split
    judge: Split
    test: Split
    task: TaskType
    outputs: int
    """Classes, tokens of the vocabulary, or components of a regression target."""
    stream: Stream | None = None
    """Where training batches are drawn from, if not from `train`, which then holds the few samples that probes need."""
    ignore_index: int | None = field(default_factory=_IGNORED.get)
    """The label that counts for nothing; None where every label counts."""
    label_kind: LabelKind = LabelKind.ONE
    """Of a classification; another is told by the targets where they can't be meant otherwise."""
    left_out: int = 0
    """Samples that had no target that counts, and are in no set."""
    doubts: tuple[str, ...] = ()
    """What of the source itself a person should look at before the run, a line each."""

    def __post_init__(self) -> None:
        form = _FORMS.get(self.task)
        if form is None:
            expected = ", ".join(f"TaskType.{TaskType.Name(task)}" for task in _FORMS)
            raise ConfigError("data", self.task, f"the task is none of {expected}")
        if not isinstance(self.outputs, SupportsIndex) or index(self.outputs) < 1:
            raise ConfigError("data", self.outputs, "outputs must be a whole number of at least 1")
        object.__setattr__(self, "outputs", index(self.outputs))
        for name, split in self.named():
            check_rows(name, split)
        if self.task == TaskType.TASK_TYPE_CLASSIFICATION:
            if self.label_kind == LabelKind.ONE:
                object.__setattr__(self, "label_kind", self._told_kind())
            form = _LABEL_FORMS[self.label_kind]
        for name, split in self.named():
            object.__setattr__(self, name, form(name, split, self.outputs, self.ignore_index))
        for name, split in self.named():
            _check_alike(name, split, self.train)

    def _told_kind(self) -> LabelKind:
        """What the targets can only mean."""
        targets = self.train.targets
        if not targets.is_floating_point() or targets.ndim < 2 or targets.shape[1] != self.outputs > 1:
            return LabelKind.ONE
        counted = targets[counting(targets, self.ignore_index)]
        if _are_bits(counted):
            is_row = targets.ndim == 2 and not are_one_hot(targets)
            return LabelKind.MULTI_LABEL if is_row else LabelKind.ONE
        return LabelKind.SOFT if _are_shares(targets) else LabelKind.ONE

    @property
    def classes(self) -> int:
        """Of labels: how many different ones there are."""
        return 2 if self.label_kind == LabelKind.BINARY else self.outputs

    @property
    def has_numbered_classes(self) -> bool:
        """Whether each sample or position is of one class, which its target names."""
        is_numbered = self.label_kind in (LabelKind.ONE, LabelKind.BINARY)
        return self.task == TaskType.TASK_TYPE_CLASSIFICATION and is_numbered

    def named(self) -> tuple[tuple[str, Split], ...]:
        """The sets with their names, in order."""
        return ("train", self.train), ("judge", self.judge), ("test", self.test)

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each set."""
        sizes = {name: len(split) for name, split in self.named()}
        return sizes if self.stream is None else sizes | {"train": len(self.stream)}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device) -> Splits:
        """The same sets on a device."""
        return self.mapped(lambda split: split.to(device))

    def mapped(self, change: Callable[[Split], Split]) -> Splits:
        """The same with every set changed."""
        return replace(self, train=change(self.train), judge=change(self.judge), test=change(self.test))

    def rows_at_once(self, most: int) -> int:
        """So many samples, or fewer where their outputs would fill the memory."""
        values = self.train.targets[0].numel()
        is_alike = self.task == TaskType.TASK_TYPE_REGRESSION or self.label_kind != LabelKind.ONE
        return max(1, min(most, VALUES_AT_ONCE // (values * (1 if is_alike else self.outputs))))

    def digest(self) -> str:
        """SHA-256 over every sample: equal digests mean equal data."""
        state = hashlib.sha256()
        for name, split in self.named():
            for tensor in (split.inputs, split.targets, split.documents):
                if tensor is None:
                    continue
                state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
                state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if self.stream is not None:
            state.update(f"stream:{self.stream.digest()};".encode())
        return state.hexdigest()


class DataSource(Protocol):
    """Anything that can be split by a run's seed."""

    def splits(self, seed: int) -> Splits:
        """The three sets of the run with that seed; equal seeds give equal sets."""


def check_rows(name: str, split: Split) -> None:
    """Refuse what is no set of samples: other things than tensors, sparse or complex ones, NaN, unequal numbers."""
    for what, values in (("inputs", split.inputs), ("targets", split.targets)):
        check_tensor(f"{name} {what}", values)
    if len(split) == 0 or len(split.targets) != len(split):
        arrived = f"{len(split)} inputs, {len(split.targets)} targets"
        raise ConfigError("data", arrived, f"the {name} set needs as many targets as inputs, and at least one")
    if split.documents is not None:
        check_tensor(f"{name} documents", split.documents)
        if split.documents.shape != (len(split),) or split.documents.is_floating_point():
            arrived = f"{name} documents: {split.documents.dtype} of shape {tuple(split.documents.shape)}"
            raise ConfigError("data", arrived, f"expected the whole number of a document for each of {len(split)} rows")


def whole_numbers(name: str, values: Tensor) -> Tensor:
    """Labels or tokens as int64, in whatever type they came. Raises ConfigError where one is a fraction."""
    if values.is_floating_point() and not bool((values == values.round()).all()):
        raise ConfigError("data", f"{name}: {values.dtype}", "labels and tokens must be whole numbers")
    return values.to(torch.int64)


def _are_bits(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _are_shares(values: Tensor) -> bool:
    """Whether what stands in dimension 1 are shares of a whole, to a rounding that half precision has."""
    whole = values.float().sum(1)
    return bool((values >= 0).all()) and torch.allclose(whole, torch.ones_like(whole), atol=1e-2)


def are_one_hot(labels: Tensor) -> bool:
    """Whether each row has a single 1 among zeros."""
    if labels.ndim != 2 or labels.shape[1] < 2:
        return False
    return bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())


def check_tensor(what: str, values: Any) -> None:
    """Refuse what is no dense tensor of finite real numbers with a sample in each row; `what` names it."""
    if not isinstance(values, Tensor):
        raise ConfigError(
            "data", f"{what}: {type(values).__name__}", "expected a torch.Tensor with a sample in each row"
        )
    for is_so, kind, remedy in _UNUSABLE:
        if is_so(values):
            arrived = f"{what}: {kind} ({str(values.dtype).removeprefix('torch.')})"
            raise ConfigError("data", arrived, f"expected a dense tensor of real numbers; {remedy}")
    if values.ndim == 0:
        raise ConfigError("data", f"{what}: a single number", "expected a sample in each row")
    if len(values) and not values.numel():
        arrived = f"{what} of shape {tuple(values.shape)}"
        raise ConfigError("data", arrived, "has samples without a value; expected no dimension of 0")
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise ConfigError("data", what, "holds NaN or infinite values; clean the data first")


def single_precision(what: str, values: Tensor) -> Tensor:
    """The numbers as float32. Raises ConfigError where a finite one is too large for that; `what` names them."""
    converted = values.to(torch.float32)
    if values.dtype == torch.float64:
        lost = torch.isinf(converted) & torch.isfinite(values)
        if bool(lost.any()):
            arrived = f"{what}: {float(values[lost][0]):.3g}"
            raise ConfigError("data", arrived, f"too large for float32, which ends at {_LARGEST:.3g}; scale the data")
    return converted


def _without_history(values: Any) -> Any:
    """The same values without a gradient or the marks of inference mode, which would end the first step."""
    if not isinstance(values, Tensor):
        return values
    return values.clone() if values.is_inference() else values.detach()


_LARGEST = torch.finfo(torch.float32).max
# What can't be read as rows of numbers: how it is told, its name, and what to do.
_UNUSABLE: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (lambda values: values.is_nested, "a nested tensor", "give samples of one shape: torch.nested.to_padded_tensor"),
    (lambda values: values.is_meta, "a meta tensor, which has no values", "save it from the CPU"),
    (lambda values: values.is_quantized, "a quantised tensor", "use dequantize()"),
    (lambda values: values.layout != torch.strided, "a sparse tensor", "use to_dense()"),
    (lambda values: values.is_complex(), "complex numbers", "use torch.view_as_real()"),
)


def counting(labels: Tensor, ignore_index: int | None) -> Tensor:
    """Which labels count."""
    return torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index


def _classes(name: str, split: Split, outputs: int, ignore_index: int | None) -> Split:
    """A label for each sample [N], or for each of its positions [N, ...]."""
    labels = whole_numbers(f"{name} targets", split.targets)
    if labels.shape[1:] == (outputs,) and are_one_hot(labels):
        shape = tuple(labels.shape)
        raise ConfigError(
            "data", f"{name} targets of shape {shape}", "are one-hot rows; give labels: targets.argmax(1)"
        )
    return replace(split, targets=_within(f"{name} targets", labels, outputs, ignore_index))


def _tokens(name: str, split: Split, outputs: int, ignore_index: int | None) -> Split:
    """A token for each position of a sequence [N, T]."""
    if split.targets.ndim < 2:
        shape = tuple(split.targets.shape)
        remedy = "a language model wants the next token at each position: [samples, tokens]"
        raise ConfigError("data", f"{name} targets of shape {shape}", remedy)
    inputs = split.inputs if split.inputs.is_floating_point() else split.inputs.to(torch.int64)
    tokens = _within(f"{name} targets", whole_numbers(f"{name} targets", split.targets), outputs, ignore_index)
    return replace(split, inputs=inputs, targets=tokens)


def _numbers(name: str, split: Split, outputs: int, ignore_index: int | None) -> Split:
    """Numbers to predict; halves would overflow where errors are squared."""
    components = split.targets[0].numel()
    if components != outputs:
        remedy = f"each has {components} values, but the source says outputs = {outputs}"
        raise ConfigError("data", f"{name} targets of shape {tuple(split.targets.shape)}", remedy)
    keeps_type = split.targets.dtype in (torch.float32, torch.float64)
    return replace(split, targets=split.targets if keeps_type else split.targets.to(torch.float32))


def _yes_or_no(name: str, split: Split, outputs: int, ignore_index: int | None) -> Split:
    """0 or 1 for each sample, or for each of its positions."""
    if outputs != 1:
        raise ConfigError("data", f"outputs={outputs}", "binary labels are told by one output; say outputs=1")
    labels = whole_numbers(f"{name} targets", split.targets)
    return replace(split, targets=_within(f"{name} targets", labels, 2, ignore_index))


def _several(name: str, split: Split, outputs: int, ignore_index: int | None) -> Split:
    """Numbers from 0 to 1 for each label."""
    _check_columns(name, split, outputs, "a 0 or 1 for each label: [samples, labels]")
    counted = split.targets[counting(split.targets, ignore_index)]
    if not bool(((counted >= 0) & (counted <= 1)).all()):
        arrived = f"{name} targets: {float(counted.min()):g}..{float(counted.max()):g}"
        raise ConfigError("data", arrived, "several labels are told by a 0 or 1 for each")
    return replace(split, targets=split.targets.to(torch.float32))


def _shares(name: str, split: Split, outputs: int, ignore_index: int | None) -> Split:
    """Shares of each class, which sum to 1."""
    _check_columns(name, split, outputs, "the share of each class: [samples, classes]")
    if not _are_shares(split.targets):
        raise ConfigError("data", f"{name} targets", "soft labels are shares of at least 0 that sum to 1")
    return replace(split, targets=split.targets.to(torch.float32))


def _check_columns(name: str, split: Split, outputs: int, wanted: str) -> None:
    shape = tuple(split.targets.shape)
    if len(shape) < 2 or shape[1] != outputs:
        raise ConfigError("data", f"{name} targets of shape {shape}", f"expected {wanted}; outputs={outputs}")


_LABEL_FORMS: dict[LabelKind, Callable[[str, Split, int, int | None], Split]] = {
    LabelKind.ONE: _classes,
    LabelKind.BINARY: _yes_or_no,
    LabelKind.MULTI_LABEL: _several,
    LabelKind.SOFT: _shares,
}
_FORMS: dict[TaskType, Callable[[str, Split, int, int | None], Split]] = {
    TaskType.TASK_TYPE_CLASSIFICATION: _classes,
    TaskType.TASK_TYPE_LANGUAGE_MODEL: _tokens,
    TaskType.TASK_TYPE_REGRESSION: _numbers,
}


def _within(name: str, labels: Tensor, outputs: int, ignore_index: int | None) -> Tensor:
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    if not counted.numel():
        raise ConfigError("ignore_index", ignore_index, f"is every label of the {name}: none counts")
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= outputs:
        remedy = f"labels must lie in 0..{outputs - 1}; {_advice(low, high, outputs)}"
        raise ConfigError("data", f"{name}: {low}..{high}", remedy)
    return labels


def _advice(low: int, high: int, outputs: int) -> str:
    """What to do about labels from `low` to `high`."""
    if low < 0:
        remedy = "samples or positions without a label must be left out, and classes numbered from 0"
        return f"{remedy}; --ignore-index={low} if that means no label"
    if low == 1 and high == outputs > 1:
        return "are they numbered from 1? subtract 1"
    missing = "samples or positions without a label must be left out (--ignore-index)"
    return f"if all are classes, say outputs={high + 1}; {missing}"


def _check_alike(name: str, split: Split, train: Split) -> None:
    for what in ("inputs", "targets"):
        one, other = getattr(split, what), getattr(train, what)
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            arrived = f"{name} {what}: {one.dtype} of shape {tuple(one.shape[1:])}"
            raise ConfigError("data", arrived, f"the train set has {other.dtype} of shape {tuple(other.shape[1:])}")
