"""Weights from safetensors, a state_dict of torch, or a folder as Hugging Face writes it; no code is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from esper.core.counted import counted
from esper.core.errors import ConfigError

SAFETENSORS, PROGRAM = ".safetensors", ".pt2"
CHECKPOINT = b"esper-checkpoint"
# As Hugging Face names them, best first.
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
INSIDE = ("state_dict", "model_state_dict", "model")
"""Under which of these a larger checkpoint keeps its weights."""

Tensors = dict[str, Tensor]


def read_weights(path: Path) -> Tensors:
    """The tensors of a file or a folder, by name, on the CPU. Raises ConfigError for whatever else it holds."""
    if not path.exists():
        raise refused(path, "isn't there; give a file of weights, a Hugging Face folder, or a run's directory")
    tensors = _of_folder(path) if path.is_dir() else _of_file(path)
    if not tensors:
        raise refused(path, "holds no tensor")
    for name, tensor in tensors.items():
        _check(path, name, tensor)
    return tensors


def refused(path: Path | str, why: str) -> ConfigError:
    """Why a file can't be started from."""
    return ConfigError("init_from", str(path), why)


def _of_folder(folder: Path) -> Tensors:
    for name in WHOLE:
        if (folder / name).is_file():
            return _of_file(folder / name)
    for name in INDEX:
        if (folder / name).is_file():
            return _of_shards(folder / name)
    raise refused(folder, f"holds none of {', '.join((*WHOLE, *INDEX))}, and is no run's directory")


def _of_file(path: Path) -> Tensors:
    if path.name.endswith(".index.json"):
        return _of_shards(path)
    if path.suffix == SAFETENSORS:
        return _of_safetensors(path)
    if path.suffix == PROGRAM:
        raise refused(path, f"is a program; export the weights instead: esper export RUN_DIR NAME{SAFETENSORS}")
    with path.open("rb") as file:
        if file.read(len(CHECKPOINT)) == CHECKPOINT:
            raise refused(path, "is a run's checkpoint; give the run's directory")
    return _of_torch(path)


def _of_shards(index: Path) -> Tensors:
    """What an index lists, from files beside it."""
    try:
        place_of: Mapping[str, str] = json.loads(index.read_text())["weight_map"]
        files = sorted(set(place_of.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise refused(index, f"is no index of weights: {_reason(error)}") from error
    if strangers := [name for name in files if Path(name).name != name]:
        raise refused(index, f"names {strangers[0]}, which isn't beside it")
    if lost := [name for name in files if not (index.parent / name).is_file()]:
        raise refused(index, f"names {counted(len(files), 'file')}, of which {lost[0]} isn't there")
    found = {name: tensor for file in files for name, tensor in _of_file(index.parent / file).items()}
    if lost := [name for name in place_of if name not in found]:
        raise refused(index, f"names {lost[0]} in {place_of[lost[0]]}, which has no such tensor")
    return {name: found[name] for name in place_of}


def _of_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise refused(path, f"can't be read as safetensors, is it cut short? {_reason(error)}") from error


def _of_torch(path: Path) -> Tensors:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        remedy = "holds objects besides tensors, which only code could make; save model.state_dict(), or safetensors"
        raise refused(path, remedy) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise refused(path, f"can't be read as weights, is it cut short? {_reason(error)}") from error
    return _tensors_in(path, content)


def _tensors_in(path: Path, content: Any) -> Tensors:
    """A state_dict itself, or the one that a larger checkpoint holds."""
    if isinstance(content, Mapping):
        inner = [key for key in INSIDE if isinstance(content.get(key), Mapping)]
        if len(inner) == 1:
            return _tensors_in(path, content[inner[0]])
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        keys = ", ".join(map(str, list(content)[:5]))
        raise refused(path, f"holds no tensors by name but {keys or 'nothing'}; save model.state_dict() itself")
    raise refused(path, f"holds a {type(content).__name__}, expected tensors by name; save model.state_dict()")


def _check(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise refused(path, f"{name} is sparse or quantised; save it dense")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
        raise refused(path, f"{name} holds NaN or infinite values: nothing can be learned from there")


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
