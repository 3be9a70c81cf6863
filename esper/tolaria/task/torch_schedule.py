"""A scheduler of torch's as what it is in the end: the rate of every step and group, known before the first.

It steps an optimiser that stands in for the run's, so twins, grafts and resumed runs read the same rates, and no group
that is added in a warm-up is taken along by a recurrence that it wasn't part of.
"""

from __future__ import annotations

import inspect
import warnings
from array import array
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esper.core.errors import ConfigError
from esper.tolaria.task.entry_point import called

OPTIMIZER = "optimizer"
"""A schedule whose first argument is called so gives a scheduler."""
EXPECTED = "(optimizer) or (optimizer, total_steps) -> torch.optim.lr_scheduler.LRScheduler"
MOMENTUM = 0.9

Rates = tuple["array[float]", ...]
"""For each group its rate at every step."""


def makes_scheduler(function: object) -> bool:
    """Whether the function gives a scheduler, and not shares."""
    return next(iter(_parameters(function)), "") == OPTIMIZER


def rates_of(function: Callable[..., Any], name: str, bases: Sequence[float], total_steps: int) -> Rates:
    """What the scheduler sets for groups of these full rates. Raises ConfigError for one that can't be known before."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": base} for base in bases]
    stand_in = torch.optim.SGD(groups, momentum=MOMENTUM)
    scheduler = _made(function, name, stand_in, total_steps)
    rates: Rates = tuple(array("d") for _ in bases)
    for step in range(total_steps):
        for group, told in zip(stand_in.param_groups, rates, strict=True):
            told.append(_usable(float(group["lr"]), name, step))
        if any(group["momentum"] != MOMENTUM for group in stand_in.param_groups):
            raise ConfigError("schedule", name, "changes momentum too, which nobody follows: give cycle_momentum=False")
        if step + 1 < total_steps:
            stand_in.step()
            _step(scheduler, name, step)
    return rates


def _made(function: Callable[..., Any], name: str, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    more = (total_steps,) if "total_steps" in _required(function) else ()
    try:
        scheduler = called("schedule", name, function, optimizer, *more, expected=EXPECTED)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError("schedule", name, f"can't be made for {total_steps} steps: {error}") from error
    if isinstance(scheduler, ReduceLROnPlateau):
        remedy = "wants to see losses, so its rates aren't known before the run; --patience ends one that gains no more"
        raise ConfigError("schedule", name, f"ReduceLROnPlateau {remedy}")
    if not isinstance(scheduler, LRScheduler):
        raise ConfigError("schedule", name, f"gives {type(scheduler).__name__}, expected {EXPECTED}")
    return scheduler


def _step(scheduler: LRScheduler, name: str, step: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR warns of what it does itself
            scheduler.step()
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise ConfigError("schedule", name, f"gives no rate for step {step + 1}: {why}") from error


def _usable(rate: float, name: str, step: int) -> float:
    if not isfinite(rate) or rate < 0:
        raise ConfigError("schedule", name, f"gives the rate {rate} at step {step}; expected a number from 0 up")
    return rate


def _parameters(function: object) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters) if callable(function) else {}
    except ValueError:  # callables of compiled code tell no signature
        return {}


def _required(function: object) -> list[str]:
    return [name for name, parameter in _parameters(function).items() if parameter.default is parameter.empty]
