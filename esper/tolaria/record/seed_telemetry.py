"""How gradients came together, as telemetry."""

from __future__ import annotations

from collections.abc import Iterator

from esper.core.clock import Clock
from esper.core.telemetry import MetricSpec, event, metric
from esper.leyline import Event, Metric
from esper.tolaria import metrics as m
from esper.tolaria.record.figures.gradients import Aggregation, SeedTold


def aggregation_metrics(told: Aggregation) -> list[Metric]:
    """Of an epoch; what was not measured is left out."""
    return [
        metric(m.AGG_MICROBATCHES, told.microbatches),
        metric(m.AGG_PCGRAD, float(told.is_surgical)),
        *_known((m.EPOCH_HOOK_LATENCY, told.hook_ms), (m.AGG_CONFLICTS, told.conflicts)),
        *_known((m.AGG_CONFLICT_RATIO, told.conflict_ratio), (m.AGG_WEIGHTS_MEAN, told.weights_mean)),
        *_known((m.AGG_TEACHER_SHARE, told.teacher_share)),
        *(measured for seed in told.seeds for measured in _of_seed(seed)),
    ]


def health_events(told: Aggregation, clock: Clock) -> list[Event]:
    """One for each seed."""
    return [_health(seed, clock) for seed in told.seeds]


def _of_seed(seed: SeedTold) -> Iterator[Metric]:
    found, whose = seed.gradient, {"seed_id": seed.gradient.seed_id, "stage": seed.stage}
    yield from _known(
        (m.SEED_WEIGHT, found.weight),
        (m.SEED_NORM, found.norm),
        (m.SEED_SHARE, found.share),
        (m.SEED_SHARE_DELTA, seed.share_delta),
        (m.SEED_ALPHA_MEAN, found.blended.mean),
        (m.SEED_CONFLICTS, found.conflicts),
        (m.SEED_CONFLICT_RATIO, found.conflict_ratio),
        (m.SEED_PARAMS, found.parameters),
        (m.SEED_MASK_FRACTION, found.mask_fraction),
        (m.SEED_TEACHER_SHARE, found.teacher_share),
        **whose,
    )
    for layer, norm in found.layers:
        yield metric(m.SEED_LAYER_NORM, norm, layer=layer, **whose)


def _known(*pairs: tuple[MetricSpec, float | None], **attributes: str) -> Iterator[Metric]:
    for spec, value in pairs:
        if value is not None:
            yield metric(spec, value, **attributes)


def _health(seed: SeedTold, clock: Clock) -> Event:
    found = seed.gradient
    conflicts = {} if found.conflicts is None else {"conflicts": found.conflicts}
    return event(
        m.SEED_HEALTH,
        clock,
        None,
        seed_id=found.seed_id,
        stage=seed.stage,
        share=found.share,
        alpha=found.blended.mean,
        weight=found.weight,
        alpha_p95=found.blended.p95,
        sparsity=found.blended.sparsity,
        clamped_fraction=found.blended.clamped_fraction,
        **conflicts,
    )
