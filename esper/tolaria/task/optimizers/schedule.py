"""The learning rate of a step, as a function of the step alone: a warm-up, then what the schedule's name says.

Growth belongs where the rate is high, so the schedule also says from which step on nothing is grown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, inf, pi
from typing import Any

from torch.optim import Optimizer

from esper.core.errors import ConfigError
from esper.kasmina.executor.graft.wiring import HOST_KEY
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.entry_point import called, load
from esper.tolaria.task.optimizers.torch_schedule import (
    TorchSchedule,
    handed_over,
    makes_scheduler,
    named,
    rates_of,
    single_group,
    torch_schedule,
)

COSINE_END = 0.1
"""What a cosine leaves of the rate at the end, as a share of its height."""
OWN = "own"
LAST_SHARE = 0.3
"""Last phase of a run where nobody says: nothing grows in it."""
LOW_RATE, ROUNDING = 0.3, 1e-9
"""Share of its height below which a rate is too low for growth."""


@dataclass(slots=True, kw_only=True)
class Schedule:
    """Sets the rate of every parameter group before a step; part of a training arm, copied with it.

    `factor` is what commands and rollbacks have multiplied the rate by.
    """

    name: str
    bases: tuple[float, ...]
    """Full rate of each group of the host's, or one for all; a seed's group has that of the one it stands beside."""
    total_steps: int
    warmup_steps: int
    growth_end_step: int
    shares: tuple[float, ...] = ()
    """Share of the full rate at each step, where a function of the user's gave them."""
    factor: float = 1.0

    def rate(self, step: int) -> float:
        """Rate of the step, counted from 0, in the first group; the last step's is still positive."""
        return self._rate(step, 0)

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Give every group the step's rate and return that of the first."""
        rate, is_alike = self.rate(step), len(self.bases) == 1
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = rate if is_alike else self._rate(step, group.get(HOST_KEY, index))
        return rate

    @property
    def outlook(self) -> str:
        """What becomes of the rate, in words."""
        return PHASES[self._kind].outlook.format(self.growth_end_step)

    def state_dict(self) -> dict[str, Any]:
        """What isn't in the settings."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.factor = float(state["factor"])

    def _rate(self, step: int, group: int) -> float:
        rate = self.bases[group] * self.factor
        if step < self.warmup_steps:
            rate *= (step + 1) / (self.warmup_steps + 1)
        return rate * PHASES[self._kind].share(self, step)

    @property
    def _kind(self) -> str:
        return OWN if ":" in self.name else self.name


@dataclass(frozen=True, slots=True)
class Phases:
    """One kind of schedule: the share of the full rate after the warm-up, and what is said of it."""

    share: Callable[[Schedule, int], float]
    outlook: str
    last_share: float
    """Share of the run in which nothing grows any more, where the settings don't say."""


def _linear_decay(schedule: Schedule, step: int) -> float:
    total, start = schedule.total_steps, schedule.growth_end_step
    return 1.0 if step < start else max(0.0, (total - step) / (total - start))


def _cosine(schedule: Schedule, step: int) -> float:
    done = max(0, step - schedule.warmup_steps) / max(1, schedule.total_steps - schedule.warmup_steps)
    return COSINE_END + (1.0 - COSINE_END) * 0.5 * (1.0 + cos(pi * min(1.0, done)))


def _constant(schedule: Schedule, step: int) -> float:
    return 1.0


def _own(schedule: Schedule, step: int) -> float:
    return schedule.shares[min(step, schedule.total_steps - 1)]


PHASES: dict[str, Phases] = {
    "wsd": Phases(_linear_decay, "decays from step {:,}", LAST_SHARE),
    "cosine": Phases(_cosine, "falls along a cosine, and nothing grows from step {:,}", LAST_SHARE),
    "constant": Phases(_constant, "stays as it is", 0.0),
    OWN: Phases(_own, "is as the function says, and nothing grows from step {:,}", LAST_SHARE),
}


def make_schedule(
    config: TrainConfig, total_steps: int, optimizer: Optimizer | None = None, scheduler: Any = None
) -> Schedule | TorchSchedule:
    """The schedule of a run of so many steps over the optimiser; `scheduler` is what a script hands over instead.

    Without an optimiser it is that of a single group, at the rate of the settings.
    """
    optimizer, end = optimizer or single_group(config.lr), growth_end_step(config, total_steps)
    if scheduler is not None:
        return torch_schedule(handed_over(scheduler), optimizer, total_steps, end)
    function = _own_function(config)
    if function is not None and makes_scheduler(function):
        return torch_schedule(named(function, config.schedule), optimizer, total_steps, end)
    return Schedule(
        name=config.schedule,
        bases=tuple(float(group["lr"]) for group in optimizer.param_groups),
        total_steps=total_steps,
        warmup_steps=min(config.warmup_steps, total_steps // 10) if function is None else 0,
        growth_end_step=end,
        shares=() if function is None else shares_of(function, config.schedule, total_steps),
    )


def growth_end_step(config: TrainConfig, total_steps: int) -> int:
    """First step of the last phase, in which nothing grows; of one's own function, where the rate has fallen for good.

    It follows from the settings alone, because the control plane knows no optimiser's groups.
    """
    function = _own_function(config)
    kind = config.schedule if function is None else OWN
    last_share = PHASES[kind].last_share if config.decay_fraction is None else config.decay_fraction
    end = round(total_steps * (1.0 - last_share))
    if function is None or config.decay_fraction is not None:
        return end
    if makes_scheduler(function):
        told = rates_of(named(function, config.schedule), config.lr, total_steps)
    else:
        told = shares_of(function, config.schedule, total_steps)
    return min(end, fallen_step(told))


def _own_function(config: TrainConfig) -> Any:
    """The user's, where the settings name one."""
    return load("schedule", config.schedule) if ":" in config.schedule else None


def fallen_step(rates: Sequence[float]) -> int:
    """The first step from which on the rate stays below what a cosine has left where its last phase begins."""
    low = max(rates, default=0.0) * (LOW_RATE - ROUNDING)
    return next((step + 1 for step in reversed(range(len(rates))) if rates[step] >= low), 0)


def shares_of(function: object, name: str, total_steps: int) -> tuple[float, ...]:
    """What a function of the user's own gives for every step; asked once, before the run, so twins see the same."""
    expected = "(step) -> share of the learning rate"
    if not callable(function):
        raise ConfigError("schedule", name, f"expected a function {expected}")
    called("schedule", name, function, 0, expected=expected)
    shares = []
    for step in range(total_steps):
        share = function(step)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < inf:
            raise ConfigError("schedule", name, f"gives {share!r} at step {step}; expected a number from 0 up")
        shares.append(float(share))
    return tuple(shares)
