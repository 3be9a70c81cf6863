"""The loss in one line: as wide as there is room for, falling where the loss falls, and no longer for a long run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.terminal.loss_history import BLOCKS, MOST, LossHistory


def history(*losses: float) -> LossHistory:
    found = LossHistory()
    for loss in losses:
        found.add(loss)
    return found


@given(
    losses=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=700), width=st.integers(2, 90)
)
def test_whatever_the_losses_the_line_is_of_blocks_and_fits(losses: list[float], width: int) -> None:
    line = history(*losses).line(width)
    assert len(line) <= width
    assert set(line) <= set(BLOCKS)


def test_a_loss_that_falls_evenly_falls_from_the_highest_block_to_the_lowest() -> None:
    line = history(*(2.0**-power for power in range(8))).line(8)
    assert line == BLOCKS[::-1]


@pytest.mark.parametrize("count", [MOST, 10 * MOST])
def test_a_long_run_is_kept_in_few_values_from_its_first_loss_to_its_last(count: int) -> None:
    found = history(*(float(count - place) for place in range(count)))
    assert len(found._values) < MOST
    first, last = found.ends or (0.0, 0.0)
    assert first > 0.9 * count
    assert last < 0.1 * count


def test_nothing_is_drawn_before_two_losses_are_known() -> None:
    assert history(1.0).line(10) == ""
    assert history(1.0).ends is None
