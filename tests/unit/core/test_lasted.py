"""Times are told in a unit in which they are read."""

from __future__ import annotations

import pytest

from esper.core.errors import RollbackLate
from esper.core.lasted import lasted


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.0, "0 ms"),
        (4e-5, "0.04 ms"),
        (0.0052, "5.2 ms"),
        (0.8123, "812 ms"),
        (5.0, "5 s"),
        (100.4, "100 s"),
        (600.0, "10 min"),
        (5 * 3600.0, "5 h"),
        (10 * 86_400.0, "10 d"),
    ],
)
def test_a_time_is_told_in_the_unit_that_fits(seconds: float, says: str) -> None:
    assert lasted(seconds) == says


def test_a_deadline_below_a_millisecond_is_told_as_it_is() -> None:
    assert str(RollbackLate("memory", 0.4, 5.21)) == "the restore from memory took 5.21 ms; its deadline is 0.4 ms"
