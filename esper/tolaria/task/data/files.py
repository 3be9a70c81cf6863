"""Data from a path: a file of tensors, a folder with two tensor files, or a folder with one subfolder for each class.

`.npz` and `.pt` files hold `inputs` and `targets`; folders hold them as `.npy` or `.pt`, or hold class subfolders with
images or tensors of one shape. Nothing is unpickled. Targets of a whole-number type are labels, others mean regression,
unless the task is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data.posing import outputs_of
from esper.tolaria.task.data.source import Split, Splits, are_one_hot, check_rows, whole_numbers
from esper.tolaria.task.data.splitting import stratified_rows, stratified_subset

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
TENSOR_TYPES = (".npy", ".pt")


class Files:
    """Samples under a path, and the task that they pose; None: as the type of their targets says."""

    def __init__(self, path: Path, samples: int | None = None, task: TaskType | None = None) -> None:
        self._path = path
        self._samples = samples
        self._task = task

    def splits(self, seed: int) -> Splits:
        whole = read_samples(self._path)
        check_rows(str(self._path), whole)
        task = self._task or _task_of(whole.targets)
        is_labelled = task == TaskType.TASK_TYPE_CLASSIFICATION
        targets = self._labels(whole.targets) if is_labelled else whole.targets
        whole = Split(self._inputs(task, whole.inputs), targets)
        outputs = outputs_of(task, [whole])
        if self._samples is not None:
            whole = whole.take(stratified_subset(_strata(task, whole.targets), self._samples, seed))
        rows = stratified_rows(_strata(task, whole.targets), seed)
        train, judge, test = map(whole.take, rows)
        return Splits(train=train, judge=judge, test=test, task=task, outputs=outputs)

    def _inputs(self, task: TaskType, inputs: Tensor) -> Tensor:
        """Tokens for a language model, single-precision numbers otherwise; bytes are brightness, 0..1."""
        if task == TaskType.TASK_TYPE_LANGUAGE_MODEL:
            return whole_numbers(f"{self._path} inputs", inputs)
        return inputs.to(torch.float32) / (255.0 if inputs.dtype == torch.uint8 else 1.0)

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
        return _from_pair(path, _read(path))
    if not path.is_dir():
        raise ConfigError("data", str(path), "no such file or folder, and no known data source")
    pair = {name: _named_tensor(path, name) for name in ("inputs", "targets")}
    if all(tensor is not None for tensor in pair.values()):
        return _from_pair(path, {name: tensor for name, tensor in pair.items() if tensor is not None})
    return _from_classes(path)


def _task_of(targets: Tensor) -> TaskType:
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
        arrived = sorted(content) if isinstance(content, Mapping) else "one tensor"
        raise ConfigError("data", str(path), f"expected tensors named inputs and targets, found {arrived}")
    targets = content["targets"]
    return Split(content["inputs"], targets.to(torch.float32) if targets.is_floating_point() else targets)


def _from_classes(path: Path) -> Split:
    """One subfolder for each class, in order of names."""
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(folders) < 2:
        raise ConfigError("data", str(path), "expected inputs and targets files, or a subfolder for each class")
    inputs: list[Tensor] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in (*IMAGE_TYPES, *TENSOR_TYPES):
                inputs.append(_sample(file))
                labels.append(label)
                if inputs[-1].shape != inputs[0].shape:
                    arrived, expected = tuple(inputs[-1].shape), tuple(inputs[0].shape)
                    raise ConfigError("data", str(file), f"its shape {arrived} differs from {expected} before it")
    if not inputs:
        raise ConfigError("data", str(path), f"no file of a known type ({', '.join((*IMAGE_TYPES, *TENSOR_TYPES))})")
    return Split(torch.stack(inputs), torch.tensor(labels))


def _sample(file: Path) -> Tensor:
    if file.suffix.lower() in IMAGE_TYPES:
        return _read_image(file)
    content = _read(file)
    if isinstance(content, Mapping):
        raise ConfigError("data", str(file), "expected one tensor in the file of a sample")
    return content.to(torch.float32)


def _named_tensor(folder: Path, name: str) -> Tensor | None:
    for suffix in TENSOR_TYPES:
        file = folder / f"{name}{suffix}"
        if file.exists():
            content = _read(file)
            if isinstance(content, Tensor):
                return content
            raise ConfigError("data", str(file), "expected one tensor")
    return None


def _read(file: Path) -> Mapping[str, Tensor] | Tensor:
    """Tensors of a file, by name where it holds several."""
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ConfigError("data", str(file), f"unknown type; known: {', '.join(_READERS)}")
    try:
        content = reader(file)
    except (OSError, ValueError, RuntimeError, EOFError, LookupError, AttributeError, ImportError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError("data", str(file), f"can't be read: {reason}") from error
    values = content.values() if isinstance(content, Mapping) else [content]
    if not all(isinstance(value, Tensor) for value in values):
        raise ConfigError("data", str(file), "holds something else than tensors")
    return content


def _read_torch(file: Path) -> Mapping[str, Tensor] | Tensor:
    from pickle import UnpicklingError

    if not is_zipfile(file):
        raise ValueError("it is no file that torch.save wrote")
    try:
        content: Mapping[str, Tensor] | Tensor = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError("it holds more than tensors") from error
    return content


def _read_npz(file: Path) -> Mapping[str, Tensor]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def _read_npy(file: Path) -> Tensor:
    return torch.from_numpy(np.load(file, allow_pickle=False))


def _read_image(file: Path) -> Tensor:
    """An image as [channels, height, width], 0..1."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("data", str(file), "images need Pillow: pip install pillow") from error
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "I", "F") else "RGB"))
    except (OSError, ValueError) as error:
        raise ConfigError("data", str(file), f"is no readable image: {error}") from error
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float32) / 255.0)


_READERS: dict[str, Callable[[Path], Mapping[str, Tensor] | Tensor]] = {
    ".pt": _read_torch,
    ".npz": _read_npz,
    ".npy": _read_npy,
}
