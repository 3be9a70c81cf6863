from __future__ import annotations

import pytest

from esper.core.nearest import nearest


@pytest.mark.parametrize(
    ("word", "expected"), [("--epoch", "--epochs"), ("ephocs", "--epochs"), ("--sede", "--seed"), ("xyz", None)]
)
def test_the_likeliest_known_word_is_named_and_none_where_nothing_is_like_it(word: str, expected: str | None) -> None:
    assert nearest(word, ["--epochs", "--seed", "--run-dir"]) == expected


def test_among_no_words_none_is_near() -> None:
    assert nearest("word", []) is None
