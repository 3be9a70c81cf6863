"""The decoder's settings: a dial for its depth, widths that follow, and one line for what doesn't fit together."""

from __future__ import annotations

import pytest

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.models.decoder import style_of, widths_of
from esper.tolaria.task.models.models import host_widths
from esper.tolaria.task.models.transformer import DecoderStyle


def config(**settings: object) -> TrainConfig:
    return TrainConfig(data="pytext", model="transformer", **settings)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, (32, 32)),
        ({"hidden": (8, 9)}, (8, 9)),
        ({"depth": 3}, (256, 256, 256)),
        ({"width": 96, "heads": 3}, (384, 384)),
        ({"depth": 3, "width": 96, "heads": 3, "mlp": "gated"}, (256, 256, 256)),
        ({"depth": 2, "width": 64, "mlp": "gated"}, (176, 176)),
        ({"depth": 3, "hidden": (50,)}, (50, 50, 50)),
        ({"depth": 3, "hidden": (50, 40, 30)}, (50, 40, 30)),
    ],
)
def test_mlp_widths_are_given_or_follow_from_depth_and_width(
    settings: dict[str, object], widths: tuple[int, ...]
) -> None:
    assert widths_of(config(**settings)) == host_widths(config(**settings)) == widths


def test_a_gated_mlp_has_about_the_parameters_of_a_plain_one() -> None:
    plain, gated = (widths_of(config(depth=1, width=384, heads=6, mlp=mlp))[0] for mlp in ("plain", "gated"))
    assert 3 * gated == pytest.approx(2 * plain, rel=0.02)


def test_the_style_is_what_is_asked_for_and_else_the_default() -> None:
    assert style_of(config()) == DecoderStyle()
    asked = config(width=96, heads=3, positions="rotary", norm="rms", mlp="gated", tied=True)
    assert style_of(asked) == DecoderStyle(size=96, heads=3, positions="rotary", norm="rms", mlp="gated", is_tied=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 96, "heads": 5}, "heads = 5: must divide the width, which is 96"),
        ({"width": 12, "heads": 4, "positions": "rotary"}, "even number of values in a head, got 3"),
        ({"depth": 3, "hidden": (8, 8)}, "2 widths for 3 blocks"),
        ({"depth": 0}, "at least 1"),
        ({"norm": "batch"}, "layer, rms"),
    ],
)
def test_what_does_not_fit_together_is_one_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        style_of(config(**settings)), widths_of(config(**settings))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
