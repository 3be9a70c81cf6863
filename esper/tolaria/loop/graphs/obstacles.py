"""What keeps a step, or its optimiser's part, out of a graph: known beforehand, and named."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import SGD, Adadelta, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.slots.between import KeyedModule
from esper.leyline import BlendMode
from esper.tolaria.config import BY_SEEDS, TrainConfig
from esper.tolaria.loop.aggregation.surgery import skips_on_device

CAPTURABLE = (SGD, Adam, AdamW, RMSprop, Adadelta, Adamax, NAdam, RAdam)
"""Optimisers of torch's whose rates may be tensors on the device and that keep no state elsewhere."""

Check = Callable[[TrainConfig, TrainingArm], bool]
OBSTACLES: tuple[tuple[str, str, Check], ...] = (
    (
        "surgery_by_seeds",
        "surgery between seeds weighs them anew in each step",
        lambda config, arm: config.pcgrad and config.surgery == BY_SEEDS and bool(arm.grafts),
    ),
    (
        "confidence_blend",
        "a confidence blend asks the host for its logits first, under draws of its own",
        lambda config, arm: any(graft.blend.mode == BlendMode.BLEND_MODE_CONFIDENCE for graft in arm.grafts),
    ),
    (
        "seed_draws",
        "a seed's own module draws at random",
        lambda config, arm: any(isinstance(part, KeyedModule) and part.is_noisy for part in _seed_parts(arm)),
    ),
    (
        "surgery_waits",
        "surgery waits for its verdict where the optimiser isn't fused",
        lambda config, arm: (
            config.pcgrad
            and config.surgery != BY_SEEDS
            and arm.scaler is None
            and not skips_on_device(arm.optimizer, arm.device)
        ),
    ),
    (
        "scaler_waits",
        "the gradient scaler waits for its verdict where the optimiser isn't fused",
        lambda config, arm: arm.scaler is not None and not captures_optimizer(arm),
    ),
)
"""By name, in words, and how they are told."""


def obstacle(config: TrainConfig, arm: TrainingArm) -> tuple[str, str]:
    """What is known to keep the arm's step out of a graph, by name and in words; both empty where nothing does."""
    return next(((name, words) for name, words, stands in OBSTACLES if stands(config, arm)), ("", ""))


def captures_optimizer(arm: TrainingArm) -> bool:
    """Whether the optimiser's step can be part of the graph; else it is made eagerly behind each replay."""
    optimizer: Optimizer = arm.optimizer
    if type(optimizer) not in CAPTURABLE or bool(getattr(arm.scheduler, "momenta", False)):
        return False
    if not all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups):
        return False
    held = (value for state in optimizer.state.values() for value in state.values())
    return all(value.device == arm.device for value in held if isinstance(value, Tensor))


def _seed_parts(arm: TrainingArm) -> list[torch.nn.Module]:
    return [part for graft in arm.grafts for part in graft.module.modules()]
