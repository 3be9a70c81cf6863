"""One file to tensors: `.npz`, `.npy`, `.pt` and images. Nothing is unpickled; what can't be read is one clear line."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.core.errors import ConfigError
from esper.tolaria.task.data.links import check_link
from esper.tolaria.task.data.source import check_tensor, single_precision

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
TENSOR_TYPES = (".npy", ".pt")
SAMPLE_TYPES = (*IMAGE_TYPES, *TENSOR_TYPES)

# What readers of archives and pickles raise for damaged ones, beside what they raise on purpose.
_PLAIN = (OSError, ValueError, RuntimeError, EOFError, LookupError, AttributeError, ImportError, TypeError, SyntaxError)
DAMAGES = (*_PLAIN, BadZipFile, zlib.error, struct.error)

# Kinds of NumPy arrays that hold no numbers, and what to do about each.
NO_NUMBERS = {
    "U": "text; number it: np.unique(values, return_inverse=True)[1]",
    "S": "text; number it: np.unique(values, return_inverse=True)[1]",
    "V": "records; store one array of numbers for each field",
    "M": "dates; store numbers, such as (values - values.min()) / np.timedelta64(1, 'D')",
    "m": "durations; store numbers, such as values / np.timedelta64(1, 's')",
}


_OTHERS = "tables: np.savez('data.npz', inputs=..., targets=...); text: --data text:PATH"


def read_tensors(file: Path) -> Mapping[str, Tensor] | Tensor:
    """Tensors of a file, by name where it holds several. Raises ConfigError where it can't be read."""
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ConfigError("data", str(file), f"unknown type; known: {', '.join(_READERS)}; {_OTHERS}")
    check_link(file)
    try:
        content: Any = reader(file)
    except DAMAGES as error:
        raise ConfigError("data", str(file), f"can't be read: {_reason(error)}") from error
    values = content if isinstance(content, Mapping) else {"": content}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            what = f"{name!r} is" if isinstance(content, Mapping) else "its content is"
            remedy = f"{what} of type {type(value).__name__}, expected a tensor; save inputs and targets alone"
            raise ConfigError("data", str(file), remedy)
    tensors: Mapping[str, Tensor] | Tensor = content
    return tensors


def read_sample(file: Path) -> Tensor:
    """The one sample of a file: an image as [channels, height, width], 0..1, or a tensor as float32."""
    if file.suffix.lower() in IMAGE_TYPES:
        return _read_image(file)
    content = read_tensors(file)
    if isinstance(content, Mapping):
        raise ConfigError("data", str(file), f"expected one tensor in the file of a sample, found {_names(content)}")
    # A sample may be a single number.
    check_tensor(str(file), content[None] if content.layout == torch.strided and not content.is_nested else content)
    return single_precision(str(file), content)


def _read_torch(file: Path) -> object:
    from pickle import UnpicklingError

    if not is_zipfile(file):
        raise ValueError("it is no file that torch.save wrote, or is cut short")
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        remedy = "save tensors alone: torch.save({'inputs': inputs, 'targets': targets}, FILE)"
        raise ValueError(f"it holds more than tensors; {remedy}") from error
    return content


def _read_npz(file: Path) -> Mapping[str, Tensor]:
    if not is_zipfile(file):
        raise ValueError("it is no file that np.savez wrote, or is cut short")
    # NumPy leaves a damaged archive open that it has opened itself.
    with file.open("rb") as source, np.load(source, allow_pickle=False) as archive:
        return {name: _from_array(name, partial(archive.__getitem__, name)) for name in archive.files}


def _read_npy(file: Path) -> Tensor:
    return _from_array("it", lambda: np.load(file, allow_pickle=False))


def _from_array(name: str, load: Callable[[], NDArray[Any]]) -> Tensor:
    """An array of numbers in any byte order as a tensor. Raises ValueError for one of something else."""
    try:
        array = load()
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        remedy = "which are never unpickled; store numbers of one type and shape"
        raise ValueError(f"{name} holds Python objects, {remedy}") from error
    if array.dtype.kind in NO_NUMBERS:
        raise ValueError(f"{name} ({array.dtype}) holds {NO_NUMBERS[array.dtype.kind]}")
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


def _read_image(file: Path) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("data", str(file), "images need Pillow: pip install pillow") from error
    check_link(file)
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "I", "F") else "RGB"))
    except (*DAMAGES, Image.DecompressionBombError) as error:
        raise ConfigError("data", str(file), f"is no readable image: {_reason(error)}") from error
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float32) / 255.0)


def _names(content: Mapping[str, Tensor]) -> str:
    return ", ".join(map(str, content)) or "nothing"


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


_READERS: dict[str, Callable[[Path], object]] = {
    ".pt": _read_torch,
    ".npz": _read_npz,
    ".npy": _read_npy,
}
