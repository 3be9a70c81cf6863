"""A training pass that is only tried: forward in the host's own mode, loss and backward, and everything as before.

Code that runs only in training, such as an average of the weights that the host keeps of itself, shows here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.kasmina.executor.contents.forms import is_writable
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.passes.batches import Batch, first, samples_in
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.task import Task

SAMPLES = 64


@dataclass(frozen=True, slots=True)
class TrainingPass:
    """What came of a pass: the names of the host's parameters that got a gradient, and how many samples it took."""

    reached: frozenset[str]
    samples: int


def try_training(arm: TrainingArm, task: Task, *, key: int) -> TrainingPass:
    """One pass over a few judging samples. Raises whatever the host raises."""
    inputs, targets = _some(next(iter(task.judge_batches())))
    wanted = {name: parameter for name, parameter in arm.model.named_parameters() if parameter.requires_grad}
    parameters = list({id(p): p for module in arm.modules for p in module.parameters()}.values())
    values = [(p, p.detach().clone()) for p in parameters if not nn.parameter.is_lazy(p) and is_writable(p)]
    before = [parameter.grad for parameter in parameters]
    with side_pass(arm.modules, key=key, training=None):
        try:
            _set_gradients(parameters, [None] * len(parameters))
            with torch.enable_grad():
                task.loss(task.forward(arm.model, inputs), targets).backward()  # type: ignore[no-untyped-call]
            reached = frozenset(name for name, parameter in wanted.items() if parameter.grad is not None)
            return TrainingPass(reached, samples_in(inputs))
        finally:
            _set_gradients(parameters, before)
            with torch.no_grad():
                for parameter, value in values:
                    parameter.copy_(value)


def _some(batch: Batch) -> Batch:
    """A few samples, a power of two: hosts that pair or group their samples want no remainder."""
    return first(batch, 1 << (min(SAMPLES, samples_in(batch[0])).bit_length() - 1))


def _set_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
