"""What the flags say of blends, as Tamiyo is told, and whether any slot of the host can have it."""

from __future__ import annotations

from collections.abc import Callable

from esper.core.errors import ConfigError
from esper.leyline import BlendMode, BlendSchedule, BlendSettings, ConfidenceKind, HostManifest, SlotKind, TaskType
from esper.tolaria.config import TrainConfig

MODES = {
    "residual": BlendMode.BLEND_MODE_RESIDUAL,
    "convex": BlendMode.BLEND_MODE_CONVEX,
    "channel": BlendMode.BLEND_MODE_CHANNEL,
    "confidence": BlendMode.BLEND_MODE_CONFIDENCE,
}
SCHEDULES = {
    "linear": BlendSchedule.BLEND_SCHEDULE_LINEAR,
    "sigmoid": BlendSchedule.BLEND_SCHEDULE_SIGMOID,
    "cosine": BlendSchedule.BLEND_SCHEDULE_COSINE,
    "warmup_hold": BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD,
}
CONFIDENCES = {
    "margin": ConfidenceKind.CONFIDENCE_KIND_MARGIN,
    "entropy": ConfidenceKind.CONFIDENCE_KIND_ENTROPY,
}

# Each rule: a setting, whether it contradicts the others, and what to do.
RULES: tuple[tuple[str, Callable[[TrainConfig], bool], str], ...] = (
    ("blend_channels", lambda c: bool(c.blend_channels) and c.blend != "channel", "is of --blend channel; give both"),
    ("blend_channels", lambda c: not c.blend_channels and c.blend == "channel", "--blend channel needs 1 to 64 shares"),
    (
        "blend_schedule",
        lambda c: c.blend_schedule == "warmup_hold" and (c.blend not in ("auto", "residual") or c.incubate != "none"),
        "begins at full alpha, which the host hears of all but a residual blend of a seed that is zero at first; "
        "choose another",
    ),
)


def blend_settings(config: TrainConfig) -> BlendSettings | None:
    """What is asked for; None where everything is left to the policy."""
    asked = BlendSettings(
        mode=MODES.get(config.blend),
        schedule=SCHEDULES.get(config.blend_schedule),
        schedule_steps=config.blend_steps,
        alpha_target=config.blend_alpha,
        alpha_vec=config.blend_channels,
        confidence=None if config.blend_confidence is None else CONFIDENCES[config.blend_confidence],
    )
    if config.blend_gate is not None:
        asked.gate_slope, asked.gate_threshold = config.blend_gate
    if config.blend_shares is not None:
        asked.share_min, asked.share_max = config.blend_shares
    return asked if asked.ListFields() else None


def check_blend(config: TrainConfig, manifest: HostManifest, window_steps: int) -> None:
    """Raise ConfigError for what contradicts itself, and for what no slot of the host could have."""
    for key, is_wrong, remedy in RULES:
        if is_wrong(config):
            raise ConfigError(key, getattr(config, key), remedy)
    for key in ("blend_confidence", "blend_gate", "blend_shares"):
        if getattr(config, key) is not None and config.blend != "confidence":
            raise ConfigError(key, getattr(config, key), "is of --blend confidence; give both")
    if config.blend == "confidence" and manifest.task != TaskType.TASK_TYPE_CLASSIFICATION:
        remedy = "needs one row of logits for each sample, which only a classification has; choose another"
        raise ConfigError("blend", config.blend, remedy)
    if config.blend_steps is not None and config.blend_steps > window_steps:
        remedy = f"a blend must end within the judging window of {window_steps} steps; give less, or --window-fraction"
        raise ConfigError("blend_steps", config.blend_steps, remedy)
    _check_channels(config, manifest)


def _check_channels(config: TrainConfig, manifest: HostManifest) -> None:
    """Each share is of a channel or of a group of channels."""
    entries = len(config.blend_channels)
    written = {slot.slot_id: slot.out_features for slot in manifest.slots if slot.kind != SlotKind.SLOT_KIND_STACK}
    if entries and written and all(channels % entries for channels in written.values()):
        slots = ", ".join(f"{slot_id}: {channels}" for slot_id, channels in written.items())
        remedy = f"{entries} shares divide the channels of no slot ({slots}); give as many, or a divisor of them"
        raise ConfigError("blend_channels", config.blend_channels, remedy)
