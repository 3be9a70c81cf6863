"""Merging: a low-rank adapter's product is added to the weight of the layer that it stands beside; names stay.

What the optimiser remembers of the weight stays too: the same weight goes on from another value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.lora import LowRank
from esper.kasmina.executor.fold.fold import tolerance
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.leyline import BlendMode


def is_adapter(graft: Graft) -> bool:
    """Whether it can be merged rather than folded."""
    return isinstance(graft.module, LowRank)


def merge_obstacle(arm: TrainingArm, graft: Graft, step: int) -> str:
    """Why the adapter can't be merged while the network goes on training; empty if it can."""
    if graft.is_muted:
        return "it is paused"
    if graft.blend.rate_factor_at(step) != 1.0:
        return "its learning-rate warm-up isn't over"
    if not _weight(arm, graft).requires_grad:
        return f"{graft.slot.write_path} is frozen and the adapter learns on; an export merges it"
    return lasting_obstacle(graft)


def lasting_obstacle(graft: Graft) -> str:
    """Why the adapter can't be merged even once nothing learns any more; empty if it can."""
    if graft.blend.mode != BlendMode.BLEND_MODE_RESIDUAL or graft.alpha != 1.0:
        return f"alpha is {graft.alpha:g} in mode {BlendMode.Name(graft.blend.mode)}, expected exactly 1 in RESIDUAL"
    return graft.slot.obstacle


def merge(arm: TrainingArm, graft: Graft, outputs: Callable[[], Tensor]) -> float:
    """Merges the adapter and returns the largest change of any output; an error means that nothing was changed."""
    before, weight = outputs(), _weight(arm, graft)
    old = weight.detach().clone()
    add(graft, weight)
    graft.detach()
    delta = float((outputs() - before).abs().max())
    limit = tolerance(weight.dtype) * max(1.0, float(before.abs().max()))
    if not delta <= limit:
        with torch.no_grad():
            weight.copy_(old)
        graft.attach(arm.model, arm.grafts)
        raise GraftFailed(f"merging {graft.seed_id} changed an output by {delta:g}, allowed is {limit:g}")
    arm.detach(graft)
    return delta


def merge_all(arm: TrainingArm) -> list[str]:
    """Merges every adapter that can be, for a network that learns no more; returns their ids."""
    merged = [graft for graft in list(arm.grafts) if is_adapter(graft) and not lasting_obstacle(graft)]
    for graft in merged:
        add(graft, _weight(arm, graft))
        arm.detach(graft)
    return [graft.seed_id for graft in merged]


def add(graft: Graft, weight: nn.Parameter) -> None:
    """The layer's weight as it is with the adapter: W + scale * B A."""
    module = graft.module
    if not isinstance(module, LowRank):
        raise GraftFailed(f"seed {graft.seed_id} is no low-rank adapter")
    with torch.no_grad():
        weight.add_(module.product().to(weight.dtype))


def _weight(arm: TrainingArm, graft: Graft) -> nn.Parameter:
    return arm.model.get_submodule(graft.slot.write_path).get_parameter("weight")
