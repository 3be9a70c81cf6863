"""How an epoch's gradients came together: read once, with what has passed its limit."""

from __future__ import annotations

from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.aggregation.meter import MEASURED_STEPS, SeedMeter
from esper.tolaria.record.ending.summary import name_of_stage
from esper.tolaria.record.figures.gradients import Aggregation, Limits
from esper.tolaria.record.progress import Progress


def aggregation_of(progress: Progress, seed_meter: SeedMeter, config: TrainConfig) -> Aggregation:
    """The epoch that has just ended; its seeds where enough of their steps were measured."""
    meter = progress.meter
    seeds = seed_meter.read() if seed_meter.steps >= MEASURED_STEPS else []
    stages = {seed.seed_id: name_of_stage(seed.stage) for seed in progress.history.seeds.values()}
    return Aggregation(
        microbatches=progress.step * config.accumulate,
        is_surgical=config.pcgrad,
        conflicts=meter.conflicts if meter.surgeries else None,
        conflict_ratio=meter.conflict_rates / meter.surgeries if meter.surgeries else None,
        hook_ms=meter.hook_ms / meter.boundaries if meter.boundaries else None,
        seeds=progress.gradients.with_past(seeds, stages),
    )


def limits_of(config: TrainConfig) -> Limits:
    """By the settings."""
    return Limits(
        conflict_ratio=config.seed_conflict_ratio_warn,
        share_jump=config.seed_share_jump_warn,
        hook_ms=config.hook_budget_ms,
        epoch_ms=config.epoch_budget_ms,
    )
