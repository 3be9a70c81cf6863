"""A scheduler of torch's as a table: the rates, and the momenta where it moves them, of every step and group.

A scheduler is a walk through its own state, here over an optimiser that stands in for the run's; a table can be asked
for any step. So twins, rollbacks and resumed runs see the same numbers, which are those of the walk bit for bit, and no
group that is added in a warm-up is taken along by a recurrence that it wasn't part of.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esper.core.errors import ConfigError
from esper.kasmina.executor.graft.wiring import HOST_KEY
from esper.tolaria.task.entry_point import called

OPTIMIZER = "optimizer"
"""A named schedule whose first argument is called so gives a scheduler."""
EXPECTED = "(optimizer) or (optimizer, total_steps) -> torch.optim.lr_scheduler.LRScheduler"
MOMENTA = ("momentum", "betas")

Columns = tuple["array[float]", ...]
"""For each group its number at every step."""


@dataclass(frozen=True, slots=True)
class Source:
    """A scheduler, or a function that makes one, and what its refusals are to name."""

    given: Any
    key: str
    name: str

    def refusal(self, why: str) -> ConfigError:
        return ConfigError(self.key, self.name, why)


@dataclass(slots=True, kw_only=True)
class TorchSchedule:
    """As `Schedule`, by a table; part of a training arm, copied with it."""

    name: str
    rates: Columns
    momenta: Columns
    """Momentum or first beta of each group; empty where the scheduler leaves them alone."""
    growth_end_step: int
    factor: float = 1.0
    """What commands and rollbacks have multiplied the rate by."""

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


def makes_scheduler(function: object) -> bool:
    """Whether a named function gives a scheduler, and not shares."""
    return next(iter(_parameters(function)), "") == OPTIMIZER


def named(function: Any, name: str) -> Source:
    """What the settings name."""
    return Source(function, "schedule", name)


def handed_over(given: Any) -> Source:
    """What a script holds."""
    return Source(given, "scheduler", getattr(given, "__name__", type(given).__name__))


def torch_schedule(source: Source, optimizer: Optimizer, total_steps: int, growth_end_step: int) -> TorchSchedule:
    """The table of a scheduler over the optimiser, which stays as it is. Raises ConfigError for one without a table."""
    rates, momenta, name = _walked(source, optimizer, total_steps)
    moves = any(
        len(set(values)) > 1 or values[0] != _momentum(group)
        for values, group in zip(momenta, optimizer.param_groups, strict=True)
    )
    return TorchSchedule(name=name, rates=rates, momenta=momenta if moves else (), growth_end_step=growth_end_step)


def rates_of(source: Source, rate: float, total_steps: int) -> Sequence[float]:
    """What the scheduler makes of a rate."""
    return _walked(source, single_group(rate), total_steps)[0][0]


def single_group(rate: float) -> Optimizer:
    """An optimiser of one group over nothing that is trained; its momentum may be cycled."""
    return torch.optim.SGD([torch.zeros(1)], rate, momentum=0.9)


def _walked(source: Source, optimizer: Optimizer, total_steps: int) -> tuple[Columns, Columns, str]:
    stand_in = _stand_in(optimizer)
    rates, momenta = (tuple(array("d") for _ in stand_in.param_groups) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that no optimiser makes here
        scheduler = _over(source, optimizer, stand_in, total_steps)
        for step in range(total_steps):
            for index, group in enumerate(stand_in.param_groups):
                rates[index].append(_usable(float(group["lr"]), source, step))
                momenta[index].append(_momentum(group))
            if step + 1 < total_steps:
                _step(scheduler, source, step)
    is_named = source.key == "schedule"
    return rates, momenta, source.name if is_named else type(scheduler).__name__


def _over(source: Source, optimizer: Optimizer, stand_in: Optimizer, total_steps: int) -> LRScheduler:
    """The scheduler, walking over the stand-in."""
    given = source.given
    if isinstance(given, LRScheduler):
        if given.optimizer is not optimizer:
            raise source.refusal("is over another optimiser than the one of this run")
        _refuse_measuring(source, given)
        return copy.deepcopy(given, {id(optimizer): stand_in})
    if not callable(given):
        raise source.refusal(f"expected a torch scheduler, or a function of one: {EXPECTED}")
    return _made(source, stand_in, total_steps)


def _made(source: Source, stand_in: Optimizer, total_steps: int) -> LRScheduler:
    function: Callable[..., Any] = source.given
    more = (total_steps,) if "total_steps" in _required(function) else ()
    try:
        scheduler = called(source.key, source.name, function, stand_in, *more, expected=EXPECTED)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise source.refusal(f"can't be made for {total_steps} steps: {error}") from error
    _refuse_measuring(source, scheduler)
    if not isinstance(scheduler, LRScheduler):
        raise source.refusal(f"gives {type(scheduler).__name__}, expected {EXPECTED}")
    return scheduler


def _refuse_measuring(source: Source, scheduler: Any) -> None:
    """One that sees losses has no table. In a loop of the user's own nobody asks for one."""
    if isinstance(scheduler, ReduceLROnPlateau):
        raise source.refusal(
            "ReduceLROnPlateau wants to see losses, so its rates aren't known before the run; use it in a loop of your "
            "own (esper.Growth), or --patience, which ends a run that gains no more"
        )


def _step(scheduler: LRScheduler, source: Source, step: int) -> None:
    try:
        scheduler.step()
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise source.refusal(f"gives no rate for step {step + 1}: {why}") from error


def _usable(rate: float, source: Source, step: int) -> float:
    if not isfinite(rate) or rate < 0:
        raise source.refusal(f"gives the rate {rate} at step {step}; expected a number from 0 up")
    return rate


def _stand_in(optimizer: Optimizer) -> Optimizer:
    """The same groups over nothing that is trained; rates that are tensors are copied, and shared as there."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    groups, defaults = copy.deepcopy((groups, optimizer.defaults))
    return Optimizer([{**group, "params": [torch.zeros(1)]} for group in groups], defaults)


def _momentum(group: dict[str, Any]) -> float:
    name = next((name for name in MOMENTA if name in group), None)
    value = 0.0 if name is None else group[name]
    return float(value[0] if isinstance(value, (tuple, list)) else value)


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "momentum" in group:
        group["momentum"] = value
    elif "betas" in group:
        group["betas"] = (value, *group["betas"][1:])


def _parameters(function: object) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters) if callable(function) else {}
    except ValueError:  # callables of compiled code tell no signature
        return {}


def _required(function: object) -> list[str]:
    return [name for name, parameter in _parameters(function).items() if parameter.default is parameter.empty]
