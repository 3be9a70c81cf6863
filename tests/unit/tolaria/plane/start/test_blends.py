"""Flags of blends: what Tamiyo is told of them, and what is refused before a step is made."""

from __future__ import annotations

from typing import Any

import pytest

from esper.core.errors import ConfigError
from esper.leyline import BlendMode, BlendSchedule, BlendSettings, ConfidenceKind, HostManifest, TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.start.blends import CONFIDENCES, MODES, SCHEDULES, blend_settings, check_blend
from tests.unit.tolaria.plane.start.test_opening import manifest


def test_nothing_said_leaves_everything_to_the_policy() -> None:
    assert blend_settings(TrainConfig()) is None
    check_blend(TrainConfig(), manifest(), 100)


def test_every_mode_schedule_and_confidence_has_its_word() -> None:
    for table, kind in ((MODES, BlendMode), (SCHEDULES, BlendSchedule), (CONFIDENCES, ConfidenceKind)):
        assert sorted(table.values()) == kind.values()[1:]


def test_flags_are_told_as_they_were_given() -> None:
    config = TrainConfig(
        blend="confidence",
        blend_schedule="sigmoid",
        blend_steps=30,
        blend_alpha=0.5,
        blend_confidence="entropy",
        blend_gate=(8.0, 0.3),
        blend_shares=(0.1, 0.9),
    )
    check_blend(config, manifest(), 100)
    assert blend_settings(config) == BlendSettings(
        mode=BlendMode.BLEND_MODE_CONFIDENCE,
        schedule=BlendSchedule.BLEND_SCHEDULE_SIGMOID,
        schedule_steps=30,
        alpha_target=0.5,
        confidence=ConfidenceKind.CONFIDENCE_KIND_ENTROPY,
        gate_slope=8.0,
        gate_threshold=0.3,
        share_min=0.1,
        share_max=0.9,
    )


@pytest.mark.parametrize(
    ("flags", "key", "words"),
    [
        ({"blend": "channel"}, "blend_channels", "needs 1 to 64"),
        ({"blend_channels": (0.5,)}, "blend_channels", "give both"),
        ({"blend": "channel", "blend_channels": (0.5,) * 7}, "blend_channels", "divide the channels of no slot"),
        ({"blend_gate": (4.0, 0.2)}, "blend_gate", "give both"),
        ({"blend": "convex", "blend_confidence": "margin"}, "blend_confidence", "give both"),
        ({"blend": "convex", "blend_schedule": "warmup_hold"}, "blend_schedule", "full alpha"),
        ({"incubate": "shadow", "blend_schedule": "warmup_hold"}, "blend_schedule", "full alpha"),
        ({"blend_steps": 101}, "blend_steps", "judging window of 100 steps"),
    ],
)
def test_what_contradicts_itself_or_fits_no_slot_is_refused(flags: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_blend(TrainConfig(**flags), manifest(), 100)
    assert caught.value.key == key


def test_a_gate_by_confidence_needs_classes() -> None:
    regression = HostManifest()
    regression.CopyFrom(manifest())
    regression.task = TaskType.TASK_TYPE_REGRESSION
    with pytest.raises(ConfigError, match="classification"):
        check_blend(TrainConfig(blend="confidence"), regression, 100)


@pytest.mark.parametrize(
    "flags",
    [
        {"blend_alpha": 0.0},
        {"blend_channels": (1.5,)},
        {"blend_channels": (0.5,) * 65},
        {"blend_gate": (4.0,)},
        {"blend_gate": (0.0, 0.2)},
        {"blend_shares": (0.9, 0.1)},
        {"blend_steps": 0},
        {"blend": "logit"},
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(flags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**flags)
