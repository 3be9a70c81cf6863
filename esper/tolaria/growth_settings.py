"""A run's growth in the contracts' words: the life of a seed, when to grow, what it may cost.

Shares of the run become steps here, once, when its length is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esper.leyline import (
    Budget,
    GrowthTrigger,
    HostManifest,
    IncubationMode,
    JudgeMode,
    LifeSettings,
    TaskType,
    TriggerSettings,
)
from esper.tolaria.config import TrainConfig
from esper.tolaria.packet_result import RunStates

# Smallest gain worth its cost: Brier score for classes, nats for language.
MARGIN_ABSOLUTE = {
    TaskType.TASK_TYPE_CLASSIFICATION: 0.002,
    TaskType.TASK_TYPE_LANGUAGE_MODEL: 0.005,
    TaskType.TASK_TYPE_REGRESSION: 0.0,
}
TRIGGERS = {
    "auto": GrowthTrigger.GROWTH_TRIGGER_AUTO,
    "always": GrowthTrigger.GROWTH_TRIGGER_ALWAYS,
    "never": GrowthTrigger.GROWTH_TRIGGER_NEVER,
}
JUDGES = {"twin": JudgeMode.JUDGE_MODE_TWIN, "muted": JudgeMode.JUDGE_MODE_MUTED}
INCUBATIONS = {"none": IncubationMode.INCUBATION_MODE_NONE, "shadow": IncubationMode.INCUBATION_MODE_SHADOW}


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What the control plane must know to open a run, or to go on with one under a new generation."""

    run_id: str
    generation: int
    seed: int
    step: int
    total_steps: int
    manifest: Callable[[], HostManifest]
    """The host as it was before any growth. Raises ConfigError where it has no usable slot."""
    life: LifeSettings
    trigger: TriggerSettings
    budget: Budget
    named_blueprints: tuple[str, ...]
    latency_rules: bool
    states: RunStates | None
    """State of both services at the checkpoint from which the run goes on; None for a new run."""


def life_settings(config: TrainConfig, total_steps: int, growth_end_step: int, task: TaskType) -> LifeSettings:
    """Settings of a seed's life."""

    def steps(share: float) -> int:
        return max(1, round(share * total_steps))

    absolute = MARGIN_ABSOLUTE[task] if config.margin_absolute is None else config.margin_absolute
    return LifeSettings(
        judge=JUDGES[config.judge],
        window_steps=steps(config.window_fraction),
        incubation=INCUBATIONS[config.incubate],
        incubation_steps=steps(config.incubate_fraction),
        isolate=config.isolate,
        embargo_steps=steps(config.embargo_fraction),
        margin_relative=config.margin_relative,
        margin_absolute=absolute,
        tau=config.tau,
        min_samples=config.min_samples,
        growth_end_step=growth_end_step,
        max_culls_in_row=config.max_culls,
        reaction_steps=(config.packet_lag + 1) * config.evaluate_every_steps,
        fade_steps=steps(config.fade_fraction),
        stability_limit=config.stability_limit,
    )


def trigger_settings(config: TrainConfig) -> TriggerSettings:
    """When to grow; what is not given is left to the policy."""
    return TriggerSettings(
        trigger=TRIGGERS[config.grow],
        slope_threshold=config.slope_threshold,
        saturation_floor=config.saturation_floor,
        saturation_share=config.saturation_share,
        warmup_steps=config.growth_warmup_steps,
        slope_window_steps=config.slope_window_steps,
        blueprint_ids=config.blueprints,
    )


def budget(config: TrainConfig) -> Budget:
    """What growth may cost; an absent limit is no limit."""
    return Budget(
        max_parameters=config.max_parameters,
        max_forward_macs=config.max_forward_macs,
        max_training_macs=config.max_training_macs,
        max_seeds=config.max_seeds,
        max_memory_bytes=config.max_memory_bytes,
    )
