"""Augmentation: a user's random change of training batches, drawn by run and step, so that every arm sees the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.entry_point import called, load
from esper.tolaria.task.feeds.loader import Loader, StreamLoader
from esper.tolaria.task.randomness import generator

EXPECTED = "(inputs, generator) -> inputs"


class Augmented:
    """Batches of another loader, changed at random; what is evaluated doesn't come from here."""

    def __init__(self, loader: Loader | StreamLoader, function: Callable[..., Any], name: str, seed: int) -> None:
        self._loader = loader
        self._function = function
        self._name = name
        self._seed = seed
        self.steps_per_epoch = loader.steps_per_epoch
        self.is_replayable = loader.is_replayable
        self._check()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the step, counted from 0."""
        inputs, targets = self._loader.batch(step)
        changed: Tensor = self._function(inputs, generator(self._seed, "augment", step))
        return changed, targets

    def _check(self) -> None:
        """Equal generators must give equal inputs, of the form that they had."""
        inputs, _ = self._loader.batch(0)
        draws = [generator(self._seed, "augment", 0) for _ in range(2)]
        first, second = (
            called("augment", self._name, self._function, inputs.clone(), draw, expected=EXPECTED) for draw in draws
        )
        if not isinstance(first, Tensor) or first.shape != inputs.shape or first.dtype != inputs.dtype:
            what = f"{first.dtype} {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
            raise self._refused(f"gives {what} for {inputs.dtype} {tuple(inputs.shape)}, expected the same form")
        if not torch.equal(first, second):
            raise self._refused("gives other inputs for an equal generator: draw from the generator alone")
        if first.is_floating_point() and not bool(torch.isfinite(first).all()):
            raise self._refused("gives NaN or infinite inputs")

    def _refused(self, why: str) -> ConfigError:
        return ConfigError("augment", self._name, why)


def augmented(config: TrainConfig, loader: Loader | StreamLoader) -> Loader | StreamLoader | Augmented:
    """The loader, with the change that `augment` names."""
    if config.augment is None:
        return loader
    function = load("augment", config.augment)
    if not callable(function):
        raise ConfigError("augment", config.augment, f"is {type(function).__name__}, expected a function {EXPECTED}")
    return Augmented(loader, function, config.augment, config.seed)
