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
from esper.tolaria.task.torch_schedule import Rates, makes_scheduler, rates_of

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
    rates: Rates = ()
    """Rates of each group of the host's at each step, where a scheduler of torch's gave them."""
    factor: float = 1.0

    def rate(self, step: int) -> float:
        """Rate of the step, counted from 0, in the first group; the last step's is still positive."""
        return self._rate(step, 0)

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Give every group the step's rate and return that of the first."""
        for index, group in enumerate(optimizer.param_groups):
            host = group.get(HOST_KEY, index)
            group["lr"] = self._rate(step, host if len(self.bases) > 1 else 0)
        return self.rate(step)

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
        if self.rates:
            return self.rates[group][min(step, self.total_steps - 1)] * self.factor
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


def make_schedule(config: TrainConfig, total_steps: int, bases: Sequence[float] = ()) -> Schedule:
    """The schedule of a run of so many steps; `bases` are the full rates of the optimiser's groups."""
    if ":" in config.schedule:
        return _own_schedule(config, total_steps, tuple(bases) or (config.lr,))
    return Schedule(
        name=config.schedule,
        bases=tuple(bases) or (config.lr,),
        total_steps=total_steps,
        warmup_steps=min(config.warmup_steps, total_steps // 10),
        growth_end_step=_last_phase(config, config.schedule, total_steps),
    )


def _own_schedule(config: TrainConfig, total_steps: int, bases: tuple[float, ...]) -> Schedule:
    """What a function of the user's own says of every step; growth ends where it has let the rate fall for good.

    When that is follows from the settings alone, because the control plane knows no optimiser's groups.
    """
    function, name = load("schedule", config.schedule), config.schedule
    shares: tuple[float, ...] = ()
    rates: Rates = ()
    if makes_scheduler(function):
        rates = rates_of(function, name, bases, total_steps)
        is_plain = set(bases) == {config.lr}
        told: Sequence[float] = (rates if is_plain else rates_of(function, name, [config.lr], total_steps))[0]
    else:
        told = shares = shares_of(function, name, total_steps)
    end = _last_phase(config, OWN, total_steps)
    return Schedule(
        name=name,
        bases=bases,
        total_steps=total_steps,
        warmup_steps=0,
        growth_end_step=end if config.decay_fraction is not None else min(end, fallen_step(told)),
        shares=shares,
        rates=rates,
    )


def _last_phase(config: TrainConfig, kind: str, total_steps: int) -> int:
    last_share = PHASES[kind].last_share if config.decay_fraction is None else config.decay_fraction
    return round(total_steps * (1.0 - last_share))


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
