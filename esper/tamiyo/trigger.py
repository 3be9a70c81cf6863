"""The growth trigger of one run: its own settings, completed by the defaults of its kind of task.

`resolve` promises numbers that are in range; a run with others is refused when it opens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.core.errors import ContractError
from esper.leyline import (
    BlendMode,
    BlendSchedule,
    BlendSettings,
    GrowthTrigger,
    StackRule,
    TaskType,
    TriggerSettings,
)
from esper.tamiyo.config import TamiyoConfig
from esper.urza.blueprints import FACTOR, WIDTH

_POSITIVE = ("slope_threshold", "saturation_floor", "saturation_share", "slope_window_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """When a run may grow, and with what."""

    mode: GrowthTrigger
    slope_threshold: float
    """Relative fall of the smoothed loss per 100 steps below which it is flat."""
    saturation_floor: float
    """Smoothed loss at or below which the host is saturated."""
    is_floor_relative: bool
    """Whether that is a share of the run's first smoothed loss; a floor that a run names is a loss."""
    saturation_share: float
    """Share of right training samples at or above which the host is saturated; 1 means never."""
    warmup_steps: int
    """Steps before the first germination."""
    window_steps: int
    """Steps over which the slope is measured."""
    blueprint_ids: tuple[str, ...]
    """Blueprints that the run names, in order of preference; empty leaves the choice to the slot's kind."""
    stack_steps: tuple[int, ...] = ()
    """Steps at which a stack is due, rising; empty: the run grows none by itself, unless by another rule."""
    stack_rule: StackRule = StackRule.STACK_RULE_UNSPECIFIED
    """When a stack is due if not at steps that the run fixed."""
    target_depth: int | None = None
    """Blocks that a run of blocks shall have at the end; None: as many as the judge keeps."""
    span: Mapping[str, float] = field(default_factory=dict)
    """Parameters of a blueprint that widens a layer, `width` or `factor`; empty: the run says nothing."""
    blend: BlendSettings = field(default_factory=BlendSettings)
    """What the run asks of blends; what it leaves out follows from the seed."""


def resolve(settings: TriggerSettings, *, task: TaskType, total_steps: int, config: TamiyoConfig) -> Trigger:
    """Complete a run's settings by the defaults of its task. Raises ContractError for numbers out of range."""
    found = setting_violations(settings)
    if found:
        raise ContractError("TriggerSettings", found)
    defaults = config.thresholds(task)
    return Trigger(
        mode=settings.trigger,
        slope_threshold=_given(settings, "slope_threshold", defaults.slope),
        saturation_floor=_given(settings, "saturation_floor", defaults.floor),
        is_floor_relative=defaults.is_floor_relative and not settings.HasField("saturation_floor"),
        saturation_share=_given(settings, "saturation_share", defaults.share),
        warmup_steps=int(_given(settings, "warmup_steps", total_steps // 10)),
        window_steps=int(_given(settings, "slope_window_steps", max(1, total_steps // 20))),
        blueprint_ids=tuple(settings.blueprint_ids),
        stack_steps=tuple(settings.stack_steps),
        stack_rule=settings.stack_rule,
        target_depth=settings.target_depth if settings.HasField("target_depth") else None,
        span=_span(settings),
        blend=settings.blend,
    )


def setting_violations(settings: TriggerSettings) -> list[str]:
    """What is wrong with the numbers that are given."""
    found = []
    for name in _POSITIVE:
        if settings.HasField(name):
            value = float(getattr(settings, name))
            if not (math.isfinite(value) and value > 0):
                found.append(f"{name} = {value}: a finite number above 0 is needed")
    if settings.HasField("saturation_share") and settings.saturation_share > 1:
        found.append(f"saturation_share = {settings.saturation_share}: a share is at most 1")
    if settings.HasField("span_factor") and not 1 < settings.span_factor <= FACTOR.high:
        found.append(f"span_factor = {settings.span_factor}: more than 1 and at most {FACTOR.high:g} is needed")
    if settings.HasField("span_units") and not WIDTH.low <= settings.span_units <= WIDTH.high:
        found.append(f"span_units = {settings.span_units}: {WIDTH.low:g} to {WIDTH.high:g} can be added")
    steps = list(settings.stack_steps)
    if steps != sorted(set(steps)):
        found.append(f"stack_steps = {steps}: each must be later than the one before")
    if steps and settings.stack_rule:
        found.append(f"stack_steps = {steps} beside a stack_rule: give the steps, or the rule")
    return found + _blend_violations(settings.blend)


def _blend_violations(blend: BlendSettings) -> list[str]:
    """Contradictions in what is asked of blends, whatever the seed."""
    is_residual = blend.mode in (0, BlendMode.BLEND_MODE_RESIDUAL)
    found = []
    if bool(blend.alpha_vec) != (blend.mode == BlendMode.BLEND_MODE_CHANNEL):
        found.append("blend.alpha_vec belongs to CHANNEL mode, and is needed there")
    if blend.schedule == BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD and not is_residual:
        found.append("blend.schedule is WARMUP_HOLD: only RESIDUAL can begin at full alpha without being heard")
    if blend.HasField("alpha_target") and not 0 < blend.alpha_target <= 1:
        found.append(f"blend.alpha_target = {blend.alpha_target}: above 0 and at most 1 is needed")
    return found


def updated(settings: TriggerSettings, change: TriggerSettings) -> TriggerSettings:
    """Settings with a change laid over them; what the change leaves out stays."""
    merged = TriggerSettings()
    merged.CopyFrom(settings)
    for name in ("blueprint_ids", "stack_steps"):
        if getattr(change, name):
            merged.ClearField(name)
    if change.HasField("blend"):
        merged.ClearField("blend")
    merged.MergeFrom(change)
    return merged


def _span(settings: TriggerSettings) -> dict[str, float]:
    """How much to widen, as a blueprint takes it."""
    if settings.HasField("span_factor"):
        return {"factor": settings.span_factor}
    return {"width": float(settings.span_units)} if settings.HasField("span_units") else {}


def _given(settings: TriggerSettings, name: str, default: float) -> float:
    return float(getattr(settings, name)) if settings.HasField(name) else float(default)
