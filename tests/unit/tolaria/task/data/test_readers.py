"""Files of tensors and images: whatever can't be learned from is one line that names it and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Splits, load_splits

ROWS = 60
INPUTS = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) % 2


def load(data: Path, **settings: Any) -> Splits:
    return load_splits(TrainConfig(data=str(data), seed=1, **settings))


def refused(data: Path, says: str) -> str:
    """The line that refuses the data."""
    with pytest.raises(ConfigError, match=says) as caught:
        load(data)
    line = str(caught.value)
    assert "\n" not in line
    assert str(data) in line
    return line


def saved(folder: Path, **tensors: Any) -> Path:
    torch.save({"inputs": INPUTS, "targets": LABELS, **tensors}, folder / "data.pt")
    return folder / "data.pt"


def stored(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **{"inputs": INPUTS.numpy(), "targets": LABELS.numpy(), **arrays})
    return folder / "data.npz"


@pytest.mark.parametrize(
    "tensors",
    [
        {"inputs": INPUTS.clone().requires_grad_()},
        {"inputs": torch.nn.Parameter(INPUTS.clone())},
        {"targets": INPUTS[:, 0].clone().requires_grad_()},
    ],
)
def test_what_requires_a_gradient_is_read_as_plain_data(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    splits = load(saved(tmp_path, **tensors))
    for _, split in splits.named():
        assert not split.inputs.requires_grad
        assert not split.targets.requires_grad


def test_samples_in_class_folders_may_require_a_gradient(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            torch.save(torch.nn.Parameter(INPUTS[number].clone()), tmp_path / name / f"{number}.pt")
    assert not load(tmp_path).train.inputs.requires_grad


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (lambda: {"inputs": INPUTS.to("meta")}, "inputs: a meta tensor, which has no values"),
        (
            lambda: {"inputs": torch.nested.nested_tensor([INPUTS[0], INPUTS[1]])},
            "a nested tensor.*to_padded",
        ),
        (
            lambda: {"inputs": torch.quantize_per_tensor(INPUTS, 0.1, 0, torch.qint8)},
            r"quantised.*dequantize\(\)",
        ),
        (lambda: {"inputs": INPUTS.to_sparse()}, r"sparse tensor.*to_dense\(\)"),
        (lambda: {"inputs": INPUTS.to(torch.complex64)}, r"complex numbers.*view_as_real\(\)"),
        (lambda: {"inputs": INPUTS[:, :0]}, r"shape \(60, 0\).*no dimension of 0"),
        (lambda: {"targets": LABELS.to("meta")}, "targets: a meta tensor"),
        (lambda: {"names": ["a", "b"]}, "'names' is of type list, expected a tensor"),
        (lambda: {"inputs": [INPUTS[0]]}, "'inputs' is of type list, expected a tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_rows_of_numbers_are_refused_by_name(
    tmp_path: Path, tensors: Callable[[], dict[str, Any]], says: str
) -> None:
    refused(saved(tmp_path, **tensors()), says)


def test_a_file_with_something_else_than_named_tensors_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    torch.save((INPUTS, LABELS), tmp_path / "data.pt")
    refused(tmp_path / "data.pt", "its content is of type tuple")
    torch.save({1: INPUTS, "targets": LABELS}, tmp_path / "data.pt")
    refused(tmp_path / "data.pt", r"expected tensors named inputs and targets, found \['1', 'targets'\]")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"targets": np.array(["cat", "dog"] * 30)}, r"targets \(<U3\) holds text; number it: np.unique"),
        ({"targets": np.array([b"cat", b"dog"] * 30)}, r"targets \(\|S3\) holds text; number it: np.unique"),
        ({"targets": np.array([{"a": 1}] * 60)}, "targets holds Python objects, which are never unpickled; store"),
        ({"inputs": np.zeros(60, dtype=[("a", "f4")])}, "inputs .* holds records; store one array"),
        ({"targets": np.arange(60).astype("M8[D]")}, "targets .* holds dates; store numbers"),
        ({"inputs": np.full((60, 2), 1e300)}, "inputs: 1e.300.*too large for float32, which ends at 3.4e.38; scale"),
        ({"targets": np.full(60, 1e300)}, "targets: 1e.300.*too large for float32"),
    ],
)
def test_arrays_without_usable_numbers_are_refused_with_what_to_do(
    tmp_path: Path, arrays: dict[str, Any], says: str
) -> None:
    refused(stored(tmp_path, **arrays), says)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_arrays_of_the_other_byte_order_are_read_as_the_numbers_that_they_are(tmp_path: Path, suffix: str) -> None:
    inputs, targets = INPUTS.numpy().astype(">f4"), LABELS.numpy().astype(">i2")
    if suffix == "npz":
        place = stored(tmp_path, inputs=inputs, targets=targets)
    else:
        place = tmp_path
        np.save(tmp_path / "inputs.npy", inputs)
        np.save(tmp_path / "targets.npy", targets)
    (tmp_path / "same").mkdir()
    assert load(place).digest() == load(stored(tmp_path / "same")).digest()


@pytest.mark.parametrize("kind", ["npz", "pt"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = stored(tmp_path) if kind == "npz" else saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "can't be read: it is no file that .* wrote, or is cut short")


def test_an_archive_whose_content_was_damaged_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    content = bytearray(path.read_bytes())
    content[300:310] = b"0123456789"
    path.write_bytes(content)
    refused(path, "can't be read.*CRC")


def class_folders(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(20):
            np.save(folder / name / f"{number}.npy", INPUTS[number].numpy())
    return folder


def test_a_class_folder_without_samples_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path, "cat", "dog")
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "notes.txt").write_text("none yet")
    with pytest.raises(ConfigError, match=r"eel': this class has no file of a known type .*fill the folder or remove"):
        load(tmp_path)


def test_a_folder_of_sets_of_classes_is_refused_with_the_layout(tmp_path: Path) -> None:
    for name in ("test", "train"):
        class_folders(tmp_path / name, "cat", "dog")
    with pytest.raises(ConfigError, match=r"test': holds folders .*expected .*/CLASS/FILE; give the folder whose"):
        load(tmp_path)


@pytest.mark.parametrize("place", ["data.pt", "inputs.npy", "cat/3.npy", "eel"])
def test_a_link_that_leads_nowhere_is_told_with_where_it_leads(tmp_path: Path, place: str) -> None:
    class_folders(tmp_path, "cat", "dog")
    (tmp_path / place).unlink(missing_ok=True)
    (tmp_path / place).symlink_to("nowhere.bin")
    data = tmp_path / place if place == "data.pt" else tmp_path
    with pytest.raises(ConfigError, match=f"{place}': is a link to nowhere.bin, where nothing is; remove"):
        load(data)


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image.fromarray(np.zeros((6, 5), dtype=np.uint8)).save(tmp_path / name / "1.png")
    (tmp_path / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nnope")
    with pytest.raises(ConfigError, match=r"dog/1\.png': is no readable image"):
        load(tmp_path)
    (tmp_path / "dog" / "1.png").unlink()
    np.save(tmp_path / "dog" / "1.npy", np.full((1, 6, 5), np.nan))
    with pytest.raises(ConfigError, match=r"dog/1\.npy': holds NaN"):
        load(tmp_path)
