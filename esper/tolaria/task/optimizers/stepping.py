"""The step of an optimiser that may be of a class of the user's own."""

from __future__ import annotations

from torch.optim import Optimizer

from esper.core.errors import ConfigError
from esper.tolaria.task.objective.agreement import reason_of

UNFIT = (AssertionError, NotImplementedError, TypeError)
"""How a class says that it has no such step: SAM and others want a closure, or passes of their own."""


def step_of(optimizer: Optimizer) -> None:
    """From the gradients that are there. Raises ConfigError where its class has no such step."""
    try:
        optimizer.step()
    except UNFIT as error:
        wanted = "expected one that steps by the gradients that are there, once and without a closure"
        raise ConfigError(
            "optimizer", type(optimizer).__name__, f"step() failed: {reason_of(error)}; {wanted}"
        ) from error
