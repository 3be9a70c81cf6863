"""Files of tokens as common tools write them; what can't be one is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.core.errors import ConfigError, StorageError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Splits, open_source
from esper.tolaria.task.data.tokens import read_tokens
from esper.tolaria.task.randomness import generator

TOKENS = np.random.default_rng(0).integers(0, 1000, 5000)


def load(path: Path, **settings: object) -> Splits:
    return open_source(TrainConfig(data=f"tokens:{path}", **{"context": 8, **settings})).splits(1)


def header(magic: int, version: int, count: int) -> bytes:
    numbers = np.zeros(256, dtype="<i4")
    numbers[:3] = magic, version, count
    return numbers.tobytes()


def write(path: Path, tokens: np.ndarray, kind: str = "<u2", head: bytes = b"") -> Path:
    path.write_bytes(head + tokens.astype(kind).tobytes())
    return path


@pytest.mark.parametrize(
    ("kind", "head", "given"),
    [
        ("<u2", b"", None),
        ("<u2", b"", "uint16"),
        ("<u4", b"", "uint32"),
        ("<u2", header(20240520, 1, 5000), None),
        ("<u4", header(20240801, 7, 5000), None),
        ("<u4", header(20240801, 7, 5000), "uint32"),
    ],
)
def test_bare_files_and_those_with_a_header_are_read_as_they_were_written(
    tmp_path: Path, kind: str, head: bytes, given: str | None
) -> None:
    tokens = read_tokens(write(tmp_path / "train.bin", TOKENS, kind, head), given)
    assert len(tokens) == len(TOKENS)
    assert np.array_equal(tokens[:], TOKENS)


def test_inputs_and_targets_are_neighbours_in_the_file(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "train.bin", np.arange(5000)))
    assert splits.outputs == 5000
    assert (splits.judge.targets == splits.judge.inputs + 1).all()
    assert splits.sample_shape == (8,)


def test_files_of_the_common_kinds_that_hold_other_things_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", TOKENS.astype("<u2"))
    np.savez(tmp_path / "a.npz", TOKENS.astype("<u2"))
    torch.save(torch.from_numpy(TOKENS), tmp_path / "a.pt")
    for name in ("a.npy", "a.npz", "a.pt"):
        with pytest.raises(ConfigError, match="write"):
            load(tmp_path / name)


def test_small_numbers_and_rising_ones_are_no_halves_of_larger_ones(tmp_path: Path) -> None:
    for tokens in (TOKENS % 7, TOKENS % 17, np.arange(5000)):
        assert load(write(tmp_path / "train.bin", tokens)).outputs == tokens.max() + 1
    assert load(write(tmp_path / "train.bin", TOKENS), vocabulary=65_536).outputs == 65_536
    assert load(write(tmp_path / "train.bin", TOKENS, "<u4"), vocabulary=65_537, token_type="uint32").outputs == 65_537


def test_a_link_that_leads_nowhere_is_told_with_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "gone.bin").symlink_to("nowhere.bin")
    with pytest.raises(ConfigError, match=r"gone\.bin': is a link to nowhere\.bin, where nothing is"):
        load(tmp_path / "gone.bin")


def test_a_file_that_is_cut_short_during_the_run_ends_it_in_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bin", TOKENS)
    splits = load(path)
    assert splits.stream is not None
    os.truncate(path, 100)
    with pytest.raises(StorageError, match=r"data tokens:.*train\.bin changed .* had 10,000 bytes, now 100; restore"):
        splits.stream.draw(4, generator(1))


def test_the_vocabulary_is_what_is_given_or_the_largest_token_plus_one(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bin", TOKENS)
    assert load(path).outputs == TOKENS.max() + 1
    assert load(path, vocabulary=1024).outputs == 1024


@pytest.mark.parametrize("is_at_the_end", [True, False])
def test_a_mark_ends_documents_or_begins_them(tmp_path: Path, is_at_the_end: bool) -> None:
    mark, lengths = 999, range(20, 120)
    texts = [np.full(length, number) for number, length in enumerate(lengths)]
    texts = [np.append(text, mark) if is_at_the_end else np.insert(text, 0, mark) for text in texts]
    splits = load(write(tmp_path / "train.bin", np.concatenate(texts)), document_mark=str(mark))
    assert splits.stream is not None
    train = splits.stream.draw(3000, generator(0)).inputs
    sets = [set(tokens.unique().tolist()) - {mark} for tokens in (train, splits.judge.inputs, splits.test.inputs)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert len(sets[0]) >= 60


@pytest.mark.parametrize(
    ("content", "settings", "says"),
    [
        (b"", {}, "is empty"),
        (bytes(range(1, 102)), {}, "101 bytes are no whole number of uint16"),
        (bytes(range(1, 103)), {"token_type": "uint32"}, "102 bytes are no whole number of uint32"),
        (header(20240520, 1, 9) + bytes(10), {}, "promises 9 tokens, 5 are there"),
        (header(20240520, 1, 0), {}, "is empty"),
        (header(20240520, 2, 5) + bytes(10), {}, "of version 2"),
        (header(20240522, 1, 5) + bytes(10), {}, "multiple-choice"),
        (header(20240520, 1, 5) + bytes(10), {"token_type": "uint32"}, "token_type.*says uint16"),
        (TOKENS.astype("<u4").tobytes(), {}, "looks like uint32"),
        ((TOKENS + 100_000).astype("<u4").tobytes(), {}, "looks like uint32.*give --token-type uint32"),
        ((TOKENS * 128).astype("<u4").tobytes(), {"vocabulary": 128_256}, "looks like uint32"),
        ((TOKENS % 9).astype("<u4").tobytes(), {}, "looks like uint32"),
        (b"\x93NUMPY\x01\x00" + TOKENS.astype("<u2").tobytes(), {}, r"is a NumPy array; .*tofile\(OTHER\)"),
        (b"PK\x03\x04" + bytes(100), {}, "is a zip archive, as .npz and .pt are"),
        (b"\x1f\x8b\x08\x00" + bytes(100), {"token_type": "uint32"}, "compressed with gzip; unpack it"),
        (TOKENS.astype("<u2").tobytes(), {"vocabulary": 65_537}, "vocabulary = 65537.*uint16.*--token-type uint32"),
        (TOKENS.astype("<u2").tobytes(), {"vocabulary": 50}, "vocabulary = 50.*too small.*largest token is 99"),
        (TOKENS.astype("<u2").tobytes(), {"token_type": "uint32"}, "largest token is .*--token-type"),
        (TOKENS.astype("<u2").tobytes(), {"document_mark": "5000"}, "divides nothing"),
        (np.append(TOKENS, 5000).astype("<u2").tobytes(), {"document_mark": "5000"}, "divides nothing"),
        (np.insert(TOKENS, 0, 5000).astype("<u2").tobytes(), {"document_mark": "5000"}, "divides nothing"),
        (TOKENS.astype("<u2").tobytes(), {"document_mark": "<end>"}, "number of the token"),
        (TOKENS[:40].astype("<u2").tobytes(), {}, "too little"),
    ],
)
def test_what_is_no_file_of_such_tokens_is_one_clear_line(
    tmp_path: Path, content: bytes, settings: dict[str, object], says: str
) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load(path, **settings)
    assert "\n" not in str(caught.value)
    assert "train.bin" in str(caught.value) or "document_mark" in str(caught.value)


@pytest.mark.parametrize(("place", "says"), [("none.bin", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, place: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"can't be read: {says}"):
        load(tmp_path / place)


@pytest.mark.parametrize(
    "setting", [{"vocabulary": 10}, {"token_type": "uint16"}, {"document_mark": "5"}], ids=lambda s: next(iter(s))
)
def test_settings_of_streams_are_refused_elsewhere(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="means nothing to digits"):
        open_source(TrainConfig(data="digits", **setting))
