"""Blend configurations: which ones can be believed, as one table of rules.

A silent graft is a graft that changes nothing: the rules make sure that every seed starts so, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Callable

from esper.leyline import BlendConfig, BlendMode, BlendSchedule, HostManifest, LifeSettings, TaskType

RESIDUAL = BlendMode.BLEND_MODE_RESIDUAL
CHANNEL = BlendMode.BLEND_MODE_CHANNEL
CONFIDENCE = BlendMode.BLEND_MODE_CONFIDENCE
HOLD = BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD

# Each rule: what must hold, and what to say when it doesn't.
RULES: tuple[tuple[Callable[[BlendConfig], bool], str], ...] = (
    (lambda b: 0.0 < b.alpha_target <= 1.0, "alpha_target must lie above 0 and at most at 1"),
    (lambda b: 0.0 <= b.alpha_start <= 1.0, "alpha_start must lie in 0..1"),
    (lambda b: b.schedule != HOLD or b.alpha_start == b.alpha_target, "WARMUP_HOLD needs alpha_start = alpha_target"),
    (
        lambda b: b.schedule_steps > 0 or b.alpha_start == b.alpha_target,
        "an alpha that moves needs schedule_steps of at least 1",
    ),
    (lambda b: all(0.0 <= share <= 1.0 for share in b.alpha_vec), "every entry of alpha_vec must lie in 0..1"),
    (lambda b: bool(b.alpha_vec) == (b.mode == CHANNEL), "alpha_vec belongs to CHANNEL mode, and is needed there"),
    (lambda b: not b.HasField("share_max") or b.share_min <= b.share_max, "share_min must not exceed share_max"),
)


def blend_problem(blend: BlendConfig, channels: int, manifest: HostManifest, life: LifeSettings) -> str | None:
    """Why the configuration can't be used on an activation of that many channels, or None."""
    for holds, problem in RULES:
        if not holds(blend):
            return problem
    if blend.alpha_vec and channels % len(blend.alpha_vec):
        return f"{len(blend.alpha_vec)} entries of alpha_vec don't divide {channels} channels"
    if blend.mode == CONFIDENCE and manifest.task != TaskType.TASK_TYPE_CLASSIFICATION:
        return "CONFIDENCE needs one row of logits for each sample, which only a classification has"
    if blend.schedule_steps > life.window_steps:
        return f"schedule_steps {blend.schedule_steps} exceed the judging window of {life.window_steps} steps"
    return None


def graft_problem(blend: BlendConfig, *, is_silent: bool) -> str | None:
    """Why a graft with this blend would be heard by the host, or None. `is_silent`: the seed's output is zero."""
    if blend.alpha_start == 0.0 or (is_silent and blend.mode == RESIDUAL):
        return None
    if is_silent:
        return "a zero-output seed replaces part of the host in this mode; start it at alpha 0"
    return "a seed whose output is not zero must start at alpha 0"
