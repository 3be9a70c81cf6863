"""A step that fused SGD skips on the device, by a scaler's verdict or surgery's, leaves no momentum behind.

A momentum that isn't there yet is handed to torch's kernel as memory that nothing was written to, and kept as such
where the kernel then skips the step (findings/fused_sgd_remembers_a_skipped_step.sh).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import SGD, Optimizer


def begin_momenta(optimizer: Optimizer) -> None:
    """Before each step that may be skipped, give what has no momentum yet one that a skipped step may leave."""
    if isinstance(optimizer, SGD):
        optimizer.register_step_pre_hook(_begin)


def _begin(optimizer: Optimizer, *_: Any) -> None:
    verdict = getattr(optimizer, "found_inf", None)
    if verdict is None:
        return
    for group in optimizer.param_groups:
        if not (group["fused"] and group["momentum"]):
            continue
        moving = (member for member in group["params"] if member.grad is not None)
        starting = [part for part in moving if optimizer.state.get(part, {}).get("momentum_buffer") is None]
        for member in starting:
            if group["dampening"] == 0:  # from zeros, a step gives the momentum that torch's first one gives
                optimizer.state[member]["momentum_buffer"] = torch.zeros_like(member.grad)
            elif bool(verdict):  # a first momentum isn't dampened, so none may be there: the kernel has nothing to do
                member.grad = None
