"""A scheduler of torch's as a table: the rates, and the momenta where it moves them, of every step and group.

A scheduler is a walk through its own state; a table can be asked for any step, so twins, rollbacks and resumed runs see
the same numbers, which are those of the walk bit for bit.
"""

from __future__ import annotations

import copy
import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esper.core.errors import ConfigError
from esper.kasmina.executor.graft.wiring import HOST_KEY
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.schedule import LAST_SHARE

MOMENTA = ("momentum", "betas")


@dataclass(slots=True, kw_only=True)
class TorchSchedule:
    """As `Schedule`, by a table."""

    name: str
    rates: tuple[array[float], ...]
    momenta: tuple[array[float], ...]
    """Momentum or first beta of each group; empty where the scheduler leaves them alone."""
    growth_end_step: int
    factor: float = 1.0

    def rate(self, step: int) -> float:
        """Rate of the step, counted from 0, in the first group."""
        return self._at(self.rates[0], step) * self.factor

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Give every group the step's rate and return that of the first."""
        for index, group in enumerate(optimizer.param_groups):
            host = group.get(HOST_KEY, index)
            group["lr"] = self._at(self.rates[host], step) * self.factor
            if self.momenta:
                _set_momentum(group, self._at(self.momenta[host], step))
        return self.rate(step)

    @property
    def outlook(self) -> str:
        """What becomes of the rate, in words."""
        return f"is as {self.name} says, and nothing grows from step {self.growth_end_step:,}"

    def state_dict(self) -> dict[str, Any]:
        """What isn't in the table."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.factor = float(state["factor"])

    @staticmethod
    def _at(values: Sequence[float], step: int) -> float:
        return values[min(step, len(values) - 1)]


def torch_schedule(config: TrainConfig, optimizer: Optimizer, given: Any, total_steps: int) -> TorchSchedule:
    """The table of a scheduler over the optimiser, or of one that a function makes of it. Raises ConfigError."""
    stand_in = _stand_in(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that no optimiser makes here
        scheduler = _over(given, optimizer, stand_in)
        rates = [array("d") for _ in stand_in.param_groups]
        momenta = [array("d") for _ in stand_in.param_groups]
        for _ in range(total_steps):
            for index, group in enumerate(stand_in.param_groups):
                rates[index].append(float(group["lr"]))
                momenta[index].append(_momentum(group))
            scheduler.step()
    moves = any(len(set(values)) > 1 or values[0] != _momentum(group) for values, group in _paired(momenta, optimizer))
    share = LAST_SHARE if config.decay_fraction is None else config.decay_fraction
    return TorchSchedule(
        name=type(scheduler).__name__,
        rates=tuple(rates),
        momenta=tuple(momenta) if moves else (),
        growth_end_step=round(total_steps * (1.0 - share)),
    )


def _over(given: Any, optimizer: Optimizer, stand_in: Optimizer) -> LRScheduler:
    """The scheduler, walking over the stand-in."""
    if isinstance(given, LRScheduler):
        if given.optimizer is not optimizer:
            raise ConfigError("scheduler", type(given).__name__, "is over another optimiser than the one of this run")
        _refuse_measuring(given)
        return copy.deepcopy(given, {id(optimizer): stand_in})
    if not callable(given):
        raise ConfigError(
            "scheduler", type(given).__name__, "expected a torch scheduler, or a function (optimizer) of one"
        )
    made = given(stand_in)
    _refuse_measuring(made)
    if not isinstance(made, LRScheduler):
        raise ConfigError("scheduler", type(made).__name__, "is what the function gives; expected a torch scheduler")
    return made


def _refuse_measuring(scheduler: Any) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        remedy = "follows what is measured, and a run's rates are known before it; use it in a loop of your own"
        raise ConfigError("scheduler", "ReduceLROnPlateau", f"{remedy} (esper.Growth)")


def _stand_in(optimizer: Optimizer) -> Optimizer:
    """The same groups over nothing that is trained."""
    groups = [
        {**{name: value for name, value in group.items() if name != "params"}, "params": [torch.zeros(1)]}
        for group in optimizer.param_groups
    ]
    return Optimizer(groups, dict(optimizer.defaults))


def _momentum(group: dict[str, Any]) -> float:
    name = next((name for name in MOMENTA if name in group), None)
    value = 0.0 if name is None else group[name]
    return float(value[0] if isinstance(value, (tuple, list)) else value)


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "momentum" in group:
        group["momentum"] = value
    elif "betas" in group:
        group["betas"] = (value, *group["betas"][1:])


def _paired(momenta: list[array[float]], optimizer: Optimizer) -> list[tuple[array[float], dict[str, Any]]]:
    return list(zip(momenta, optimizer.param_groups, strict=True))
