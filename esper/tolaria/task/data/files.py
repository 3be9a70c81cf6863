"""Data from a path: a file of tensors, a folder with two tensor files, or a folder with one subfolder for each class.

`.npz` and `.pt` files hold `inputs` and `targets`; folders hold them as `.npy` or `.pt`, or hold class subfolders with
images or tensors of one shape. Nothing is unpickled. Whole-number targets are labels, others mean regression.
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
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.data.splitting import classification, stratified_rows, stratified_subset

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
TENSOR_TYPES = (".npy", ".pt")


class Files:
    """Samples under a path."""

    def __init__(self, path: Path, samples: int | None = None) -> None:
        self._path = path
        self._samples = samples

    def splits(self, seed: int) -> Splits:
        inputs, targets = read_samples(self._path)
        is_regression = targets.is_floating_point()
        labels = torch.zeros(len(targets), dtype=torch.int64) if is_regression else targets
        if len(inputs) != len(targets) or not len(inputs):
            raise ConfigError("data", str(self._path), f"{len(inputs)} inputs do not match {len(targets)} targets")
        if not is_regression and labels.ndim != 1:
            raise ConfigError("data", str(self._path), f"labels must be one number a sample, got {tuple(labels.shape)}")
        if self._samples is not None:
            rows = stratified_subset(labels, self._samples, seed)
            inputs, targets, labels = inputs[rows], targets[rows], labels[rows]
        if not is_regression:
            return classification(inputs, labels, int(labels.max()) + 1, seed)
        values = targets.reshape(len(targets), -1)
        train, judge, test = (Split(inputs[rows], values[rows]) for rows in stratified_rows(labels, seed))
        return Splits(train=train, judge=judge, test=test, task=TaskType.TASK_TYPE_REGRESSION, outputs=values.shape[1])


def read_samples(path: Path) -> tuple[Tensor, Tensor]:
    """All samples under a path, with their targets."""
    if path.is_file():
        return _from_pair(path, _read(path))
    if not path.is_dir():
        raise ConfigError("data", str(path), "no such file or folder, and no known data source")
    pair = {name: _named_tensor(path, name) for name in ("inputs", "targets")}
    if all(tensor is not None for tensor in pair.values()):
        return _from_pair(path, {name: tensor for name, tensor in pair.items() if tensor is not None})
    return _from_classes(path)


def _from_pair(path: Path, content: Mapping[str, Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(content, Mapping) or not {"inputs", "targets"} <= set(content):
        arrived = sorted(content) if isinstance(content, Mapping) else "one tensor"
        raise ConfigError("data", str(path), f"expected tensors named inputs and targets, found {arrived}")
    inputs, targets = content["inputs"], content["targets"]
    if not inputs.is_floating_point():
        inputs = inputs.to(torch.float32) / (255.0 if inputs.dtype == torch.uint8 else 1.0)
    return inputs.to(torch.float32), targets.to(torch.float32 if targets.is_floating_point() else torch.int64)


def _from_classes(path: Path) -> tuple[Tensor, Tensor]:
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
    return torch.stack(inputs), torch.tensor(labels)


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
    except (OSError, ValueError, RuntimeError, EOFError, LookupError, AttributeError, ImportError) as error:
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
