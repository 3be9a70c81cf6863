"""A user's own transform of the inputs, fitted on the training set where it has `fit`, applied to all three sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.entry_point import called, load
from esper.tolaria.task.randomness import key


def transformed(config: TrainConfig, splits: Splits) -> Splits:
    """The sets with inputs as `transform` gives them. Raises ConfigError for what can't be used."""
    if config.transform is None:
        return splits
    if splits.stream is not None:
        raise ConfigError("transform", config.transform, f"{config.data} is drawn from; transform it in the source")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(config.seed, "transform"))
        function = _fitted(config.transform, splits.train.inputs)
        return splits.mapped(lambda split: _applied(config.transform or "", function, split))


def _fitted(name: str, inputs: Tensor) -> Callable[[Tensor], Any]:
    """What `fit` of the object gives for the training inputs, or the object itself where it has none."""
    found = load("transform", name)
    if isinstance(found, type):
        found = called("transform", name, found, expected="a class without arguments")
    if callable(getattr(found, "fit", None)):
        found = called("transform", name, found.fit, inputs.clone(), expected="fit(inputs) -> a function of inputs")
    if not callable(found):
        what = type(found).__name__
        raise ConfigError("transform", name, f"gives {what}, expected a function of inputs, or fit(inputs) to give one")
    function: Callable[[Tensor], Any] = found
    return function


def _applied(name: str, function: Callable[[Tensor], Any], split: Split) -> Split:
    given = tuple(split.inputs.shape)
    try:
        inputs = function(split.inputs.clone())
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError("transform", name, f"can't take inputs of shape {given}: {reason}") from error
    if not isinstance(inputs, Tensor) or len(inputs) != len(split):
        what = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigError("transform", name, f"gives {what} for {given}, expected a tensor of as many samples")
    return replace(split, inputs=inputs)
