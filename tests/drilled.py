"""Where every case of a test takes seconds: a few that differ most stay in the default suite, the others are drills."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def drilled(cases: Iterable[Any], stays: Callable[..., bool]) -> list[Any]:
    """The cases as parameters; those of which `stays` isn't true are slow."""
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(case if stays(*values) else pytest.param(*values, marks=pytest.mark.slow))
    return found
