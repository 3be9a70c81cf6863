"""Texts for experiments: the same every time, of the size that was asked for, and of the order that they promise."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.tools.experiments.loading import load

texts = load("texts")


def written(folder: Path, **told: object) -> list[bytes]:
    texts.write_text(folder, **told)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def entropy(text: bytes, order: int) -> float:
    """Of a byte after `order` bytes, nats."""
    pairs = Counter((text[i - order : i], text[i]) for i in range(order, len(text)))
    before = Counter(text[i - order : i] for i in range(order, len(text)))
    return -sum(n * math.log(n / before[past]) for (past, _), n in pairs.items()) / len(text)


def test_a_text_is_the_same_every_time_and_another_with_another_seed(tmp_path: Path) -> None:
    first, again, other = (
        texts.write_text(tmp_path / name, kind="markov", size=20_000, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other


def test_a_second_byte_of_the_past_tells_nothing_about_a_markov_text(tmp_path: Path) -> None:
    text = b"".join(written(tmp_path / "text", kind="markov", size=400_000))
    assert entropy(text, 1) < 0.8 * entropy(text, 0)
    # Rare pairs are known from few bytes, which makes the longer past look a little better than it is.
    assert 0.0 <= entropy(text, 1) - entropy(text, 2) < 0.05


@pytest.mark.parametrize("kind", ["python", "headers"])
def test_real_source_fills_the_size(tmp_path: Path, kind: str) -> None:
    assert sum(map(len, written(tmp_path / "text", kind=kind, size=100_000))) >= 100_000


def test_pieces_are_of_one_length_and_of_one_file_each(tmp_path: Path) -> None:
    pieces = written(tmp_path / "text", kind="python", size=100_000, piece_bytes=1000)
    assert [len(piece) for piece in pieces] == [1000] * 100
    assert len(set(pieces)) == 100
