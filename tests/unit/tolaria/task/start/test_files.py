"""Weights from files of every kind, and one line for each that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.task.start.files import read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(2)}


def sharded(folder: Path, place_of: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    save_file({"a.weight": WEIGHTS["a.weight"]}, folder / "one.safetensors")
    save_file({"b.bias": WEIGHTS["b.bias"]}, folder / "two.safetensors")
    places = place_of or {"a.weight": "one.safetensors", "b.bias": "two.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def whole(folder: Path) -> Path:
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def torch_file(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def tensors(path: Path) -> Path:
    save_file(WEIGHTS, path)
    return path


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: tensors(folder / "w.safetensors"),
        lambda folder: whole(folder / "hub"),
        lambda folder: sharded(folder / "hub"),
        lambda folder: sharded(folder / "hub") / "model.safetensors.index.json",
        lambda folder: torch_file(folder / "w.pt", WEIGHTS),
        lambda folder: torch_file(folder / "w.ckpt", {"epoch": 3, "state_dict": WEIGHTS, "optimizer": {"lr": 0.1}}),
    ],
)
def test_weights_come_from_every_kind_of_file(tmp_path: Path, make: Any) -> None:
    read: dict[str, Tensor] = read_weights(make(tmp_path))
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


BAD: list[tuple[Any, str]] = [
    (lambda folder: folder / "none.pt", "isn't there; give a file of weights"),
    (lambda folder: folder, "holds none of model.safetensors"),
    (lambda folder: cut(tensors(folder / "w.safetensors"), 0.9), "can't be read as safetensors, is it cut short?"),
    (lambda folder: cut(torch_file(folder / "w.pt", WEIGHTS), 0.5), "can't be read as weights, is it cut short?"),
    (lambda folder: torch_file(folder / "w.pt", nn.Linear(2, 2)), "objects besides tensors"),
    (lambda folder: torch_file(folder / "w.pt", {"epoch": 3}), "holds no tensors by name but epoch"),
    (lambda folder: torch_file(folder / "w.pt", torch.ones(3)), "holds a Tensor, expected tensors by name"),
    (lambda folder: torch_file(folder / "w.pt", {"a": torch.tensor([float("nan")])}), "a holds NaN"),
    (lambda folder: torch_file(folder / "w.pt", {"a": torch.eye(2).to_sparse()}), "a is sparse or quantised"),
    (lambda folder: tensors(folder / "w.safetensors").rename(folder / "w.pt2"), "is a program; export the weights"),
    (lambda folder: sharded(folder / "hub", {"a.weight": "three.safetensors"}), "three.safetensors isn't there"),
    (lambda folder: sharded(folder / "hub", {"c": "one.safetensors"}), "names c in one.safetensors, which has no"),
    (lambda folder: sharded(folder / "hub", {"c": "../one.safetensors"}), "which isn't beside it"),
]


@pytest.mark.parametrize(("make", "says"), BAD)
def test_what_can_t_be_used_is_refused_in_one_line(tmp_path: Path, make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^init_from = ") as raised:
        read_weights(make(tmp_path))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_a_run_points_to_its_directory(tmp_path: Path) -> None:
    (tmp_path / "final.ckpt").write_bytes(b"esper-checkpoint 2 00\n")
    with pytest.raises(ConfigError, match="give the run's directory"):
        read_weights(tmp_path / "final.ckpt")


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "ran"), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="only code could make"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)
