"""Whether a twin's way of stepping is the user's: a copy makes the first steps beside the loop, and must end alike.

What the loop does and `Growth` wasn't told of, such as clipping, would make every later judgement one of that
difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm, tensors_of
from esper.kasmina.executor.passes.statistics import norm_of as norm_of_all

TOLERANCE = 1e-3
"""Relative; kernels and sums over ranks, which add up in any order, differ by rounding."""


ROUNDING = 1e-5
"""On a CPU, where a loop that accumulates adds in another order than step() does."""


OUTER = (
    "a copy calls step() when the optimizer steps: change what it reads beside the network "
    "(a target network, a queue, a generator's weights) behind optimizer.step(), or before the loss"
)


class Verification:
    """The steps of one loop, compared."""

    def __init__(self, device: torch.device, ranks: int) -> None:
        self._is_exact = device.type == "cpu" and ranks == 1
        self.is_rounded = False
        """Whether steps that should be the same to the bit differed in their last bits."""

    def check(
        self,
        arm: TrainingArm,
        copy: TrainingArm,
        losses: tuple[Tensor, Tensor],
        gradients: tuple[Tensor, Tensor],
        step: int,
    ) -> None:
        """`losses` and norms of `gradients` are the loop's and the copy's. Raises ConfigError with what differs."""
        where = f"in step {step + 1} of the loop"
        if not self._is_same(*losses):
            told = f"{float(losses[0]):.6g}, and the mean of step() is {float(losses[1]):.6g}"
            remedy = f"they must compute the same, with the same draws in the same order; {OUTER}"
            raise ConfigError("step", where, f"the loss that was noted is {told}; {remedy}")
        if not self._is_same(*gradients):
            raise ConfigError("step", where, _of_gradients(float(gradients[0]), float(gradients[1]), _not_given(arm)))
        mine, theirs = tensors_of(arm), tensors_of(copy)
        for name, tensor in mine.items():
            if not self._is_same(tensor, theirs[name]):
                remedy = "the optimiser's step is not all that changes it, or the step was made by another optimiser"
                raise ConfigError("step", where, f"{name} became another than by step().mean().backward(); {remedy}")

    def _is_same(self, first: Tensor, second: Tensor) -> bool:
        """Not finite in both is the same, too: what to do about it is not said here."""
        if self._is_exact:
            if torch.equal(first, second):
                return True
            self.is_rounded = True
            return bool(torch.allclose(first.double(), second.double(), rtol=ROUNDING, atol=ROUNDING, equal_nan=True))
        return torch.allclose(first.float(), second.float(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def norm_of(arm: TrainingArm) -> Tensor:
    """Of all gradients of the host."""
    found = [parameter.grad for parameter in arm.host_parameters() if parameter.grad is not None]
    return norm_of_all(found) if found else torch.zeros(())


def _not_given(arm: TrainingArm) -> list[str]:
    """Parameters with a gradient that the optimiser doesn't clear."""
    learning = {id(parameter) for parameter in arm.host_parameters()}
    named = arm.model.named_parameters()
    return [name for name, part in named if part.grad is not None and id(part) not in learning]


def _of_gradients(mine: float, theirs: float, not_given: list[str]) -> str:
    told = f"the gradient's norm is {mine:.6g}, and that of step().mean() is {theirs:.6g}"
    if not_given:
        more = f" and {len(not_given) - 1} more" if len(not_given) > 1 else ""
        remedy = "leave these out of clipping, freeze them (requires_grad_(False)) or let it have them"
        return f"{told}; the optimiser wasn't given {not_given[0]}{more}, whose gradients nobody clears: {remedy}"
    if theirs > 0 and mine < theirs:
        return f"{told}; does the loop clip? say clip_norm=; does it scale the loss? let step() do so"
    return f"{told}; does the loop add up losses, scale them (scaler=) or accumulate? step() must give the same"
