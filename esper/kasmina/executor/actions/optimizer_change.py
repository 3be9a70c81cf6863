"""Changes of the optimiser's settings by command: learning rate, momentum, weight decay; absent ones stay."""

from __future__ import annotations

from torch.optim.lr_scheduler import LRScheduler

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.wiring import schedulers
from esper.leyline import OptimizerAdjustment

RATES = frozenset({"lr", "initial_lr", "min_lr", "max_lr"})
RATE_LISTS = ("base_lrs", "min_lrs", "max_lrs")


def adjust_optimizer(arm: TrainingArm, change: OptimizerAdjustment) -> None:
    """Applies the change to every group; a setting that the optimiser lacks is refused before anything changes.

    Groups without weight decay beside others that have it, such as those of biases, stay without.
    """
    groups = arm.optimizer.param_groups
    name = type(arm.optimizer).__name__
    if change.HasField("momentum") and not all("momentum" in group or "betas" in group for group in groups):
        raise GraftFailed(f"{name} has no momentum to change")
    if change.HasField("weight_decay") and not all("weight_decay" in group for group in groups):
        raise GraftFailed(f"{name} has no weight decay to change")
    if change.HasField("learning_rate_factor"):
        _scale_rate(arm, change.learning_rate_factor)
    decaying = [group for group in groups if group.get("weight_decay")] or groups
    for group in groups:
        if change.HasField("momentum"):
            _set_momentum(group, change.momentum)
    if change.HasField("weight_decay"):
        for group in decaying:
            group["weight_decay"] = change.weight_decay


def _scale_rate(arm: TrainingArm, factor: float) -> None:
    """A scheduler that sets rates must know of the factor, or it would undo it."""
    for group in arm.optimizer.param_groups:
        for name in RATES & group.keys():
            group[name] *= factor
    # Torch's own have a `factor` too, which is their decay.
    if isinstance(arm.scheduler, LRScheduler):
        for rates in (getattr(part, name, None) for part in schedulers(arm.scheduler) for name in RATE_LISTS):
            if isinstance(rates, list):
                rates[:] = [rate * factor for rate in rates]
    elif hasattr(arm.scheduler, "factor"):
        arm.scheduler.factor *= factor


def _set_momentum(group: dict[str, object], momentum: float) -> None:
    betas = group.get("betas")
    if isinstance(betas, (tuple, list)):
        group["betas"] = (momentum, *betas[1:])
    else:
        group["momentum"] = momentum
