"""The live display fits the terminal and tells what a person has to know first."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group

from esper.tolaria.record.growth_reason import PAUSED, Reason
from esper.tolaria.record.terminal.loss_history import LossHistory
from esper.tolaria.record.terminal.screen import fitting, screen
from tests.unit.tolaria.observed import boundary, epoch_done, seed_view

LONG_SLOT = "span_linear:encoder.blocks.11.mlp.fc1-encoder.blocks.11.mlp.fc2"


def drawn(width: int, height: int, seeds: int, reason: Reason) -> list[str]:
    history = LossHistory()
    for step in range(300):
        history.add(2.0 / (1 + step))
    many = [seed_view(f"s{number}", stage="DORMANT", slot_id=LONG_SLOT) for number in range(seeds - 1)]
    alive = seed_view(f"s{seeds}", stage="PROBATIONARY", slot_id=LONG_SLOT, gain=0.05, gain_standard_error=0.01)
    told = boundary(10, seeds=[alive, *many], reason=reason)
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    metrics = epoch_done(1, 10, validation_metrics={"R2": 0.5, "MAE": 1.25})
    console.print(Group(*screen(told, metrics, history, 1.5, (width, height))))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (120, 40)])
@pytest.mark.parametrize("seeds", [1, 40])
def test_it_fits_with_room_to_scroll_in(width: int, height: int, seeds: int) -> None:
    reason = Reason(
        name="STILL_IMPROVING", detail="the loss falls by 68.29% in 100 steps, flat below 60%", since_step=9
    )
    lines = drawn(width, height, seeds, reason)
    assert len(lines) + 1 <= height - 2  # the progress bar stands above, and something happens
    assert max(map(len, lines)) <= width
    assert f"s{seeds} " in "\n".join(lines)  # the living one is never left out
    assert ("more that are over" in "\n".join(lines)) == (seeds == 40)


def test_who_paused_growth_and_why_stands_on_the_screen() -> None:
    lines = drawn(80, 24, 1, Reason(name=PAUSED, detail="by operator:ann: new data at noon", since_step=40))
    assert "growth: paused: by operator:ann: new data at noon (since step 40)" in "\n".join(lines)


def test_seeds_that_fit_keep_their_order_and_living_ones_come_first() -> None:
    seeds = [seed_view(f"s{number}", stage="DORMANT") for number in range(30)]
    seeds[3] = seed_view("s3", stage="BLENDING")
    shown = [seed.seed_id for seed in fitting(seeds, 120, 24)]
    assert shown[0] == "s3"
    assert shown[-1] == "s29"
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
