"""Files of tokens as common tools write them; what can't be one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from esper.core.errors import ConfigError
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
    assert isinstance(tokens, np.memmap)
    assert np.array_equal(tokens, TOKENS)


def test_inputs_and_targets_are_neighbours_in_the_file(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "train.bin", np.arange(5000)))
    assert splits.outputs == 5000
    assert (splits.judge.targets == splits.judge.inputs + 1).all()
    assert splits.sample_shape == (8,)


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
