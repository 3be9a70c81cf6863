"""A user's `step(model, batch) -> loss of each sample` as a task, and as the step of a twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.passes.batches import samples_in
from esper.tolaria.loop.step_log import StepResult
from esper.tolaria.task.feeds.batch_task import one_each
from esper.tolaria.task.objective.agreement import MISFITS, reason_of
from esper.tolaria.task.optimizers.stepping import step_of

Step = Callable[[nn.Module, Any], Tensor]


class OwnStep:
    """The function, held to what it promises."""

    def __init__(self, function: Any) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise ConfigError("step", self.name, "expected a function (model, batch) -> loss of each sample, [N]")
        self._function: Step = function

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        return one_each(self._function(model, batch), samples_in(batch), "step", self.name)

    def tried(self, part_of: Callable[[Any], str], model: nn.Module, batch: Any) -> Tensor:
        """The same, where the function itself is on trial; `part_of` says what a batch belongs to."""
        try:
            return self(model, batch)
        except MISFITS as error:
            told = f"can't take a batch of the {part_of(batch)}: {reason_of(error)}"
            raise ConfigError("step", self.name, told) from error


class TwinStep:
    """A step as the user's loop makes it: mean loss, backward, clipping, optimiser."""

    def __init__(
        self, step: OwnStep, clip_norm: float | None, passed: Callable[[TrainingArm], nn.Module] | None = None
    ) -> None:
        """`passed` gives the network as the step passes it, where that isn't the arm's own."""
        self._step = step
        self._clip_norm = clip_norm
        self._passed = passed

    def backward(self, arm: TrainingArm, batch: Any) -> StepResult:
        """Leave the gradients in the arm, clipped where the user clips."""
        arm.optimizer.zero_grad(set_to_none=True)
        loss = self._step(arm.model if self._passed is None else self._passed(arm), batch).mean()
        scaler = arm.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(arm.optimizer)
        norm = None
        if self._clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(arm.host_parameters(), self._clip_norm)
        return StepResult(loss.detach(), None, norm, None)

    def finish(self, arm: TrainingArm) -> None:
        """The optimiser's step."""
        if arm.scaler is None:
            step_of(arm.optimizer)
        else:
            arm.scaler.step(arm.optimizer)
            arm.scaler.update()
