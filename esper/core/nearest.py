"""The word that was probably meant: for errors about unknown settings, flags and commands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LEAST_LIKENESS = 0.4


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`; None if none is much like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=LEAST_LIKENESS)), None)
