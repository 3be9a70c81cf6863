"""The learning rate of a step, as a function of the step alone: warm-up, constant, linear decay at the end.

Growth belongs into the constant phase, so the schedule also says where that ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from esper.tolaria.config import TrainConfig


@dataclass(slots=True)
class Schedule:
    """Sets the rate of every parameter group before a step; part of a training arm, copied with it.

    `factor` is what commands and rollbacks have multiplied the rate by.
    """

    base: float
    total_steps: int
    warmup_steps: int
    decay_start: int
    factor: float = 1.0

    def rate(self, step: int) -> float:
        """Rate of the step, counted from 0; the last step's is still positive."""
        rate = self.base * self.factor
        if step < self.warmup_steps:
            rate *= (step + 1) / (self.warmup_steps + 1)
        if step >= self.decay_start:
            rate *= max(0.0, (self.total_steps - step) / (self.total_steps - self.decay_start))
        return rate

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Give every group the step's rate and return it."""
        rate = self.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state_dict(self) -> dict[str, Any]:
        """What isn't in the settings."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.factor = float(state["factor"])


def make_schedule(config: TrainConfig, total_steps: int) -> Schedule:
    """The schedule of a run of so many steps."""
    return Schedule(
        base=config.lr,
        total_steps=total_steps,
        warmup_steps=min(config.warmup_steps, total_steps // 10),
        decay_start=round(total_steps * (1.0 - config.decay_fraction)),
    )
