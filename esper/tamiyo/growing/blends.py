"""How a seed is blended in: what the run asks for, completed by what the seed needs."""

from __future__ import annotations

from esper.leyline import (
    BlendConfig,
    BlendMode,
    BlendSchedule,
    BlendSettings,
    Blueprint,
    ConfidenceKind,
    IncubationMode,
)
from esper.tamiyo.context import RunContext
from esper.urza.catalog import is_stack

RESIDUAL = BlendMode.BLEND_MODE_RESIDUAL
CHANNEL = BlendMode.BLEND_MODE_CHANNEL
CONFIDENCE = BlendMode.BLEND_MODE_CONFIDENCE
HOLD = BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD
LINEAR = BlendSchedule.BLEND_SCHEDULE_LINEAR

STANDING = BlendConfig(mode=RESIDUAL, alpha_start=1.0, alpha_target=1.0, schedule=HOLD, schedule_steps=0)
"""A stack has no blend, and the contract's field says so."""
GATE_SLOPE, GATE_THRESHOLD = 4.0, 0.2


def incubates(blueprint: Blueprint, context: RunContext) -> bool:
    """Whether a seed of this kind learns beside the host before it is blended in."""
    is_shadowed = context.spec.life.incubation == IncubationMode.INCUBATION_MODE_SHADOW
    return is_shadowed and not blueprint.is_control and not is_stack(blueprint)


def blend_for(blueprint: Blueprint, context: RunContext) -> BlendConfig:
    """A seed whose output is zero is added at full alpha under a warm-up; every other blend rises from zero."""
    if is_stack(blueprint):
        return STANDING
    asked, life = context.trigger.blend, context.spec.life
    mode = asked.mode or RESIDUAL
    can_hold = mode == RESIDUAL and blueprint.is_zero_output and not incubates(blueprint, context)
    schedule = asked.schedule or (HOLD if can_hold else LINEAR)
    target = asked.alpha_target if asked.HasField("alpha_target") else 1.0
    warmup = max(1, min(context.config.blend_steps_max, life.window_steps // 4))
    steps = warmup if schedule == HOLD else max(1, life.window_steps // 2)
    blend = BlendConfig(
        mode=mode,
        alpha_start=target if schedule == HOLD else 0.0,
        alpha_target=target,
        schedule=schedule,
        schedule_steps=asked.schedule_steps if asked.HasField("schedule_steps") else steps,
    )
    if mode == CHANNEL:
        blend.alpha_vec.extend(asked.alpha_vec)
    if mode == CONFIDENCE:
        blend.MergeFrom(_gate(asked))
    return blend


def _gate(asked: BlendSettings) -> BlendConfig:
    return BlendConfig(
        confidence=asked.confidence or ConfidenceKind.CONFIDENCE_KIND_MARGIN,
        gate_slope=asked.gate_slope if asked.HasField("gate_slope") else GATE_SLOPE,
        gate_threshold=asked.gate_threshold if asked.HasField("gate_threshold") else GATE_THRESHOLD,
        share_min=asked.share_min if asked.HasField("share_min") else None,
        share_max=asked.share_max if asked.HasField("share_max") else None,
    )
