"""What is counted agrees with its number."""

from __future__ import annotations

import pytest

from esper.core.counted import counted


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (counted(0, "rank"), "0 ranks"),
        (counted(1, "rank"), "1 rank"),
        (counted(1200, "batch", "batches"), "1,200 batches"),
        (counted(1, "batch", "batches"), "1 batch"),
    ],
)
def test_one_is_no_plural(told: str, says: str) -> None:
    assert told == says
