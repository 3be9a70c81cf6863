"""Data from a path: a file of tensors, a folder with two tensor files, or a folder with one subfolder for each class.

`.npz` and `.pt` files hold `inputs` and `targets`; folders hold them as `.npy` or `.pt`, or hold class subfolders with
images or tensors of one shape. Nothing is unpickled. Targets of a whole-number type are labels, others mean regression,
unless the task is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data.links import check_link
from esper.tolaria.task.data.posing import outputs_of
from esper.tolaria.task.data.readers import SAMPLE_TYPES, TENSOR_TYPES, read_sample, read_tensors
from esper.tolaria.task.data.source import (
    LabelKind,
    Split,
    Splits,
    are_one_hot,
    check_rows,
    single_precision,
    whole_numbers,
)
from esper.tolaria.task.data.splitting import stratified_rows, stratified_subset


class Files:
    """Samples under a path, and the task that they pose; None: as the type of their targets says."""

    def __init__(
        self,
        path: Path,
        samples: int | None = None,
        task: TaskType | None = None,
        ignore_index: int | None = None,
        kind: LabelKind = LabelKind.ONE,
    ) -> None:
        self._path = path
        self._samples = samples
        self._task = task
        self._ignore_index = ignore_index
        self._kind = kind

    def splits(self, seed: int) -> Splits:
        whole = self.whole()
        check_rows(str(self._path), whole)
        task = self._task or task_of(whole.targets)
        is_labelled = task == TaskType.TASK_TYPE_CLASSIFICATION and self._kind in (LabelKind.ONE, LabelKind.BINARY)
        targets = self._labels(whole.targets) if is_labelled else self._amounts(whole.targets)
        whole = Split(self._inputs(task, whole.inputs), targets)
        outputs = outputs_of(task, [whole], self._ignore_index, self._kind)
        if self._samples is not None:
            whole = whole.take(stratified_subset(_strata(task, whole.targets), self._samples, seed))
        rows = stratified_rows(_strata(task, whole.targets), seed)
        train, judge, test = map(whole.take, rows)
        return Splits(train=train, judge=judge, test=test, task=task, outputs=outputs, label_kind=self._kind)

    def whole(self) -> Split:
        """All samples, before they are divided."""
        return read_samples(self._path)

    def _inputs(self, task: TaskType, inputs: Tensor) -> Tensor:
        """Tokens for a language model, single-precision numbers otherwise; bytes are brightness, 0..1."""
        if task == TaskType.TASK_TYPE_LANGUAGE_MODEL:
            return whole_numbers(f"{self._path} inputs", inputs)
        return single_precision(f"{self._path} inputs", inputs) / (255.0 if inputs.dtype == torch.uint8 else 1.0)

    def _amounts(self, targets: Tensor) -> Tensor:
        """Numbers in single precision; whole ones, which a regression may be named for, as they are."""
        return single_precision(f"{self._path} targets", targets) if targets.is_floating_point() else targets

    def _labels(self, targets: Tensor) -> Tensor:
        """Labels of samples [N] or of positions [N, ...], however they were stored."""
        labels = whole_numbers(f"{self._path} targets", targets)
        if self._task is None and are_one_hot(labels):
            arrived = f"{self._path}: targets of shape {tuple(labels.shape)}"
            raise ConfigError("data", arrived, "look like one-hot rows; give labels: targets.argmax(1)")
        return labels.flatten() if labels.numel() == len(labels) else labels


def read_samples(path: Path) -> Split:
    """All samples under a path, with their targets, in the types that they were stored in."""
    if path.is_file():
        return _from_pair(path, read_tensors(path))
    if not path.is_dir():
        raise ConfigError("data", str(path), "no such file or folder, and no known data source")
    pair = {name: _named_tensor(path, name) for name in ("inputs", "targets")}
    if all(tensor is not None for tensor in pair.values()):
        return _from_pair(path, {name: tensor for name, tensor in pair.items() if tensor is not None})
    return _from_classes(path)


def task_of(targets: Tensor) -> TaskType:
    """Labels where targets are whole numbers, else amounts."""
    if targets.is_floating_point():
        return TaskType.TASK_TYPE_REGRESSION
    return TaskType.TASK_TYPE_CLASSIFICATION


def _strata(task: TaskType, targets: Tensor) -> Tensor:
    """What each set holds its share of: the classes, where each sample is of one."""
    if task == TaskType.TASK_TYPE_CLASSIFICATION and targets.ndim == 1:
        return targets
    return torch.zeros(len(targets), dtype=torch.int64)


def _from_pair(path: Path, content: Mapping[str, Tensor] | Tensor) -> Split:
    if not isinstance(content, Mapping) or not {"inputs", "targets"} <= set(content):
        arrived = sorted(map(str, content)) if isinstance(content, Mapping) else "one tensor"
        raise ConfigError("data", str(path), f"expected tensors named inputs and targets, found {arrived}")
    return Split(content["inputs"], content["targets"])


def _from_classes(path: Path) -> Split:
    """One subfolder for each class, in order of names."""
    places = sorted(place for place in path.iterdir() if not place.name.startswith("."))
    for place in places:
        check_link(place)
    folders = [place for place in places if place.is_dir()]
    if len(folders) < 2:
        raise ConfigError("data", str(path), "expected inputs and targets files, or a subfolder for each class")
    inputs: list[Tensor] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SAMPLE_TYPES)
        if not files:
            raise _no_class(path, folder)
        for file in files:
            inputs.append(read_sample(file))
            labels.append(label)
            if inputs[-1].shape != inputs[0].shape:
                arrived, expected = tuple(inputs[-1].shape), tuple(inputs[0].shape)
                remedy = f"its shape {arrived} differs from {expected} before it; bring all samples to one shape"
                raise ConfigError("data", str(file), remedy)
    return Split(torch.stack(inputs), torch.tensor(labels))


def _no_class(path: Path, folder: Path) -> ConfigError:
    """Why a folder is none of the classes of a path."""
    if any(place.is_dir() for place in folder.iterdir()):
        layout = f"expected {path}/CLASS/FILE; give the folder whose subfolders are the classes, perhaps {folder}"
        return ConfigError("data", str(folder), f"holds folders where the files of a class are looked for: {layout}")
    remedy = f"this class has no file of a known type ({', '.join(SAMPLE_TYPES)}); fill the folder or remove it"
    return ConfigError("data", str(folder), remedy)


def _named_tensor(folder: Path, name: str) -> Tensor | None:
    for suffix in TENSOR_TYPES:
        file = folder / f"{name}{suffix}"
        check_link(file)
        if file.exists():
            content = read_tensors(file)
            if isinstance(content, Tensor):
                return content
            raise ConfigError("data", str(file), "expected one tensor")
    return None
