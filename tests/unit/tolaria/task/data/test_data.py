"""Data sources: three disjoint sets of exact sizes, the same for equal seeds, one clear line for what is unusable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits, load_splits
from esper.tolaria.task.data.mnist1d import LENGTH, smoothed
from esper.tolaria.task.data.splitting import set_sizes, stratified_rows


def load(data: str, seed: int = 1, **settings: Any) -> Splits:
    return load_splits(TrainConfig(data=data, seed=seed, **settings))


def rows_of(splits: Splits) -> list[set[bytes]]:
    return [{row.numpy().tobytes() for row in split.inputs} for _, split in splits.named()]


def test_digits_are_cut_into_1150_356_and_291() -> None:
    splits = load("digits")
    assert splits.sizes == {"train": 1150, "judge": 356, "test": 291}
    assert splits.sample_shape == (1, 8, 8)
    assert 0.0 <= float(splits.train.inputs.min()) <= float(splits.train.inputs.max()) == 1.0


def test_no_digit_is_in_two_sets() -> None:
    train, judge, test = rows_of(load("digits"))
    assert not train & judge
    assert not train & test
    assert not judge & test


def test_each_class_has_its_share_in_each_set() -> None:
    splits = load("digits")
    whole = torch.cat([split.targets for _, split in splits.named()]).bincount() / 1797
    for _, split in splits.named():
        assert torch.allclose(split.targets.bincount() / len(split), whole, atol=0.005)


def test_another_seed_gives_another_split_and_the_same_seed_the_same() -> None:
    digests = [load("digits", seed).digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@given(st.lists(st.integers(0, 4), min_size=12, max_size=300), st.integers(0, 2**40))
def test_stratified_rows_are_a_partition_of_exact_sizes(labels: list[int], seed: int) -> None:
    parts = stratified_rows(torch.tensor(labels), seed)
    assert tuple(map(len, parts)) == set_sizes(len(labels))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))


def test_a_subset_of_the_digits_can_be_asked_for() -> None:
    assert sum(load("digits", samples=500).sizes.values()) == 500
    with pytest.raises(ConfigError, match="holds only 1797"):
        load("digits", samples=5000)


def test_mnist1d_is_generated_the_same_way_every_time() -> None:
    first, second = load("mnist1d", samples=200), load("mnist1d", samples=200)
    assert first.digest() == second.digest()
    assert first.sample_shape == (1, LENGTH)
    assert sorted(torch.cat([split.targets for _, split in first.named()]).bincount().tolist()) == [20] * 10


def test_mnist1d_classes_can_be_told_apart_by_their_nearest_mean() -> None:
    splits = load("mnist1d", samples=4000)
    # A shift moves the stroke, so compare magnitudes of the spectrum, which it leaves alone.
    spectra = [torch.fft.rfft(split.inputs[:, 0]).abs() for split in (splits.train, splits.test)]
    means = torch.stack([spectra[0][splits.train.targets == label].mean(0) for label in range(10)])
    guesses = torch.cdist(spectra[1], means).argmin(1)
    assert float((guesses == splits.test.targets).float().mean()) > 0.2


def test_the_slow_noise_of_mnist1d_is_reflected_at_its_ends_as_published() -> None:
    draw = np.random.default_rng(0)
    noise = np.stack([smoothed(draw.standard_normal(72)) for _ in range(4000)])
    deviation = noise.std(axis=0)
    middle = deviation[20:52].mean()
    # A Gaussian window w of width 2: the middle has the variance sum w(k)^2, about 1 / (4 sqrt(pi)). At an end, a
    # reflected window meets each draw twice, as w(k) + w(k + 1): the variance is greater by exp(-1 / 16).
    assert middle == pytest.approx((1 / (4 * np.pi**0.5)) ** 0.5, rel=0.02)
    for end in (deviation[0], deviation[-1]):
        assert end / middle == pytest.approx((1 + np.exp(-1 / 16)) ** 0.5, rel=0.03)


def test_pytext_gives_bytes_and_the_bytes_that_follow_from_disjoint_files() -> None:
    splits = load("pytext", samples=100, context=32)
    assert splits.task == TaskType.TASK_TYPE_LANGUAGE_MODEL
    assert splits.sample_shape == (32,)
    assert torch.equal(splits.train.inputs[:, 1:], splits.train.targets[:, :-1])
    assert splits.digest() == load("pytext", samples=100, context=32).digest()
    assert not rows_of(splits)[0] & rows_of(splits)[2]


def test_pytext_holds_out_no_more_than_judging_needs() -> None:
    sizes = load("pytext", samples=6000, context=32).sizes
    assert sizes == {"train": 6000 - 2 * 512, "judge": 512, "test": 512}


def test_pytext_says_when_it_has_too_little_text() -> None:
    with pytest.raises(ConfigError, match="samples"):
        load("pytext", samples=10_000_000, context=32)


def save_pair(path: Path, targets: torch.Tensor, suffix: str) -> None:
    inputs = torch.arange(len(targets) * 3.0).reshape(-1, 3)
    if suffix == ".npz":
        np.savez(path.with_suffix(suffix), inputs=inputs.numpy(), targets=targets.numpy())
    else:
        torch.save({"inputs": inputs, "targets": targets}, path.with_suffix(suffix))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_file_of_tensors_with_whole_numbers_is_a_classification(tmp_path: Path, suffix: str) -> None:
    save_pair(tmp_path / "data", torch.arange(100) % 4, suffix)
    splits = load(str(tmp_path / f"data{suffix}"))
    assert (splits.task, splits.outputs) == (TaskType.TASK_TYPE_CLASSIFICATION, 4)
    assert sum(splits.sizes.values()) == 100


@pytest.mark.parametrize(
    ("stored", "task", "outputs", "shape"),
    [
        (torch.arange(60).float() % 4, "classification", 4, ()),
        (torch.arange(60).unsqueeze(1) % 4, "auto", 4, ()),
        (torch.arange(60).to(torch.int16) % 4, "auto", 4, ()),
        (torch.arange(60) % 2 == 0, "auto", 2, ()),
        (torch.arange(60) % 4, "regression", 1, ()),
        (torch.rand(60, 2, 3), "auto", 6, (2, 3)),
        (torch.arange(60).reshape(60, 1, 1).expand(60, 2, 3) % 5, "auto", 5, (2, 3)),
        (torch.arange(60).reshape(60, 1).expand(60, 3) % 5, "language_model", 180, (3,)),
        (torch.eye(3, dtype=torch.int64).repeat(20, 1), "classification", 2, (3,)),
    ],
)
def test_the_task_of_a_file_is_guessed_from_the_targets_type_or_named(
    tmp_path: Path, stored: torch.Tensor, task: str, outputs: int, shape: tuple[int, ...]
) -> None:
    save_pair(tmp_path / "data", stored, ".pt")
    splits = load(str(tmp_path / "data.pt"), task=task)
    assert splits.outputs == outputs
    assert splits.train.targets.shape[1:] == shape
    assert splits.train.targets.is_floating_point() == (outputs in (1, 6))
    assert sum(splits.sizes.values()) == 60


@pytest.mark.parametrize(
    ("stored", "task", "says"),
    [
        (torch.rand(60), "classification", "must be whole numbers"),
        (torch.eye(3, dtype=torch.int64).repeat(20, 1), "auto", "one-hot rows"),
        (torch.arange(60) - 1, "auto", "labels must lie in 0..58; samples or positions without a label"),
        (-torch.ones(60, dtype=torch.int64), "auto", "-1..-1': labels must lie in 0..0"),
        (torch.arange(60) * 10**9, "auto", "label 59,000,000,000': among only 60 labels"),
        (torch.arange(60), "language_model", "next token at each position"),
        (torch.arange(60).to(torch.complex64), "auto", "real numbers"),
        (torch.full((60,), float("inf")), "auto", "NaN or infinite"),
        (torch.tensor(3.0), "auto", "a single number"),
    ],
)
def test_targets_that_a_task_cannot_have_are_refused(
    tmp_path: Path, stored: torch.Tensor, task: str, says: str
) -> None:
    torch.save({"inputs": torch.rand(60, 3).round(), "targets": stored}, tmp_path / "data.pt")
    with pytest.raises(ConfigError, match=says) as caught:
        load(str(tmp_path / "data.pt"), task=task)
    assert "\n" not in str(caught.value)


def test_text_in_an_array_is_refused_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.zeros((40, 2)), targets=np.array(["cat", "dog"] * 20))
    with pytest.raises(ConfigError, match=r"data\.npz.*can't be read") as caught:
        load(str(tmp_path / "data.npz"))
    assert "\n" not in str(caught.value)


def test_a_folder_with_fractional_targets_is_a_regression(tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    torch.save(torch.rand(50, 2), tmp_path / "targets.pt")
    splits = load(str(tmp_path))
    assert (splits.task, splits.outputs) == (TaskType.TASK_TYPE_REGRESSION, 2)


def test_class_folders_of_images_are_read_in_order_of_their_names(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = np.full((6, 5, 3), 100 * label + number, dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    splits = load(str(tmp_path))
    assert splits.sample_shape == (3, 6, 5)
    brightness = splits.train.inputs.mean(dim=(1, 2, 3)) * 255
    assert torch.equal((brightness >= 99.5).long(), splits.train.targets)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("broken.npz", b"no archive", "can't be read"),
        ("broken.pt", b"no tensors", "no file that torch.save wrote"),
        ("broken.pt", b"\x80\x02.", "no file that torch.save wrote"),
        ("broken.pt", b"PK\x05\x06" + bytes(18), "can't be read"),
        ("broken.npy", b"\x93NUMPY", "can't be read"),
        ("data.csv", b"1,2,3", "unknown type"),
    ],
)
def test_an_unreadable_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    torch.save({"inputs": Path("anything"), "targets": torch.zeros(3)}, tmp_path / "data.pt")
    with pytest.raises(ConfigError, match="can't be read"):
        load(str(tmp_path / "data.pt"))


@pytest.mark.parametrize("data", ["digit", "no/such/path", "no_such_module:source", "json:nothing", "json:dumps"])
def test_an_unknown_source_is_refused(data: str) -> None:
    with pytest.raises(ConfigError, match="data"):
        load(data)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class source:\n    def __init__(self, path): pass\n", "takes .path., expected a function or class without"),
        ("class source:\n    def splits(self): pass\n", r"takes \(\), expected splits\(seed\)"),
        ("class source:\n    def splits(self, seed): return [1]\n", "gives list, expected Splits"),
        ("source = 3\n", "expected a DataSource"),
    ],
)
def test_an_entry_point_that_cannot_be_called_is_refused_with_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    name = f"my_data_module_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=says):
        load(f"{name}:source")


def test_an_entry_point_gives_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data_module.py").write_text(
        "import torch\n"
        "from esper.leyline import TaskType\n"
        "from esper.tolaria.task.data import Split, Splits\n"
        "class Source:\n"
        "    def splits(self, seed):\n"
        "        part = Split(torch.zeros(10, 2), torch.arange(10) % 2)\n"
        "        return Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load("my_data_module:Source").sizes == {"train": 10, "judge": 10, "test": 10}


@pytest.mark.parametrize(
    ("inputs", "targets", "says"),
    [
        (torch.full((4, 2), float("nan")), torch.zeros(4, dtype=torch.int64), "NaN"),
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, 9]), "0..2"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), "as many targets"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "at least one"),
        (torch.zeros(4, 2), torch.full((4,), 0.5), "whole numbers"),
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, -1]), "without a label must be left out"),
        (torch.zeros(4, 2), torch.eye(3)[[0, 1, 2, 0]], "one-hot rows"),
        (torch.zeros(4, 2).to_sparse(), torch.arange(4) % 3, "dense tensor"),
        (np.zeros((4, 2)), torch.arange(4) % 3, "ndarray.*expected a torch.Tensor"),
        (["a", "b"], torch.arange(2), "list.*expected a torch.Tensor"),
        (torch.zeros(4, 5), torch.arange(4) % 3, "the train set has"),
        (torch.zeros(4, 2).double(), torch.arange(4) % 3, "the train set has"),
        (torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64), "the train set has"),
    ],
)
def test_unusable_samples_are_refused(inputs: torch.Tensor, targets: torch.Tensor, says: str) -> None:
    good = Split(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match=says):
        Splits(train=good, judge=Split(inputs, targets), test=good, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=3)


@pytest.mark.parametrize(
    ("task", "outputs", "says"), [(9, 3, "task is none of"), (1, 0, "at least 1"), (1, 2.5, "whole")]
)
def test_an_unknown_task_or_no_outputs_are_refused(task: int, outputs: Any, says: str) -> None:
    part = Split(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match=says):
        Splits(train=part, judge=part, test=part, task=task, outputs=outputs)


def test_a_source_that_miscounts_the_values_of_its_targets_is_refused() -> None:
    part = Split(torch.zeros(3, 2), torch.rand(3, 2))
    with pytest.raises(ConfigError, match=r"each has 2 values, but the source says outputs = 1"):
        Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_REGRESSION, outputs=1)
