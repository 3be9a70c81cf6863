"""Proof that a seed is apart from the host: no host parameter can be reached from its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.passes.batches import Forward, called
from esper.kasmina.executor.passes.side_pass import side_pass


def reachable_parameters(arm: TrainingArm, graft: Graft, inputs: Any, *, key: int, forward: Forward = called) -> int:
    """How many host parameters get a gradient from an attached seed's output; 0 for an isolated seed."""
    outputs: list[Tensor] = []
    watcher = graft.module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with side_pass([*arm.modules, graft.module], key=key, training=None), torch.enable_grad():
            forward(arm.model, inputs)
            if not outputs or not outputs[0].requires_grad:
                return 0
            reached = torch.autograd.grad(outputs[0].sum(), arm.host_parameters(), allow_unused=True)
    finally:
        watcher.remove()
    return sum(gradient is not None for gradient in reached)
