"""Host networks: small ones by name, any other by entry point.

A model states the layout in which it wants its samples; the data is brought into it once, before the first step.
Layers have names of their own, because slots are named after them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Splits
from esper.tolaria.task.entry_point import called, load
from esper.tolaria.task.models import decoder
from esper.tolaria.task.models.transformer import CausalTransformer
from esper.tolaria.task.randomness import key
from esper.tolaria.task.start.frozen import freeze

Layout = Literal["vector", "sequence", "image", "tokens", "as given"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a named model is built: (sample shape, outputs, widths, settings) -> module."""

    build: Callable[[tuple[int, ...], int, tuple[int, ...], TrainConfig], nn.Module]
    layout: Layout
    widths: Callable[[TrainConfig], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A model with the data in its layout."""

    name: str
    model: nn.Module
    splits: Splits


def mlp(shape: tuple[int, ...], outputs: int, widths: tuple[int, ...], config: TrainConfig) -> nn.Module:
    """Linear layers `fc1`, `fc2`, ... with ReLU between."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sizes = (*shape, *widths)
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{number}"] = nn.Linear(fan_in, fan_out)
        layers[f"act{number}"] = nn.ReLU()
        _add_dropout(layers, number, config.dropout)
    layers[f"fc{len(sizes)}"] = nn.Linear(sizes[-1], outputs)
    return nn.Sequential(layers)


def conv1d(shape: tuple[int, ...], outputs: int, widths: tuple[int, ...], config: TrainConfig) -> nn.Module:
    """Strided convolutions `conv1` (kernel 5), `conv2`, ... (kernel 3) with ReLU between, then `fc`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, length = shape
    for number, width in enumerate(widths, start=1):
        kernel = 5 if number == 1 else 3
        layers[f"conv{number}"] = nn.Conv1d(channels, width, kernel, stride=2, padding=1)
        layers[f"act{number}"] = nn.ReLU()
        _add_dropout(layers, number, config.dropout)
        channels, length = width, (length + 2 - kernel) // 2 + 1
        if length < 1:
            raise ConfigError("hidden", widths, f"{number} strided convolutions leave nothing of {shape[1]} positions")
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * length, outputs)
    return nn.Sequential(layers)


def cnn(shape: tuple[int, ...], outputs: int, widths: tuple[int, ...], config: TrainConfig) -> nn.Module:
    """Convolution, BatchNorm, ReLU for each width, pooled by two after every second one, then `fc`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, height, width = shape
    for number, filters in enumerate(widths, start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(filters)
        layers[f"act{number}"] = nn.ReLU()
        if number % 2 == 0 and min(height, width) >= 2:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
        _add_dropout(layers, number, config.dropout)
        channels = filters
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * height * width, outputs)
    return nn.Sequential(layers)


def transformer(shape: tuple[int, ...], outputs: int, widths: tuple[int, ...], config: TrainConfig) -> nn.Module:
    """A causal language model with one block for each width; the widths are those of the blocks' MLPs."""
    style = decoder.style_of(config)
    return CausalTransformer(vocabulary=outputs, context=shape[0], widths=widths, dropout=config.dropout, style=style)


RECIPES: dict[str, Recipe] = {
    "mlp": Recipe(mlp, "vector", lambda config: config.hidden or (6, 6)),
    "conv1d": Recipe(conv1d, "sequence", lambda config: config.hidden or (20, 20, 20)),
    "cnn": Recipe(cnn, "image", lambda config: config.hidden or (4, 8)),
    "transformer": Recipe(transformer, "tokens", decoder.widths_of),
}


def host_widths(config: TrainConfig) -> tuple[int, ...]:
    """Widths of the hidden layers, given or the named model's own; empty for a model that decides its own."""
    return RECIPES[config.model].widths(config) if config.model in RECIPES else config.hidden


def build_host(config: TrainConfig, splits: Splits) -> Host:
    """The host that `model` names, its weights drawn from the run's seed, beside data in its layout."""
    if config.model != "transformer":
        decoder.refuse_settings(config)
    recipe = _recipe(config)
    fitted = splits if recipe is None else in_layout(splits, recipe.layout, config)
    model = build_model(config, fitted.sample_shape, fitted.outputs)
    return Host(name=config.model, model=model, splits=fitted)


def build_model(config: TrainConfig, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The network that `model` names, for samples in its layout, with its frozen parts; no data is needed."""
    recipe = _recipe(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(config.seed, "weights"))
        if recipe is None:
            model = _from_entry_point(config, sample_shape, outputs)
        else:
            model = recipe.build(sample_shape, outputs, host_widths(config), config)
    freeze(config, model)
    return model


def _recipe(config: TrainConfig) -> Recipe | None:
    """How a named model is built; None for an entry point."""
    if ":" not in config.model and config.model not in RECIPES:
        raise ConfigError("model", config.model, f"expected {', '.join(RECIPES)}, or module:factory")
    return RECIPES.get(config.model)


def in_layout(splits: Splits, layout: Layout, config: TrainConfig) -> Splits:
    """The same samples in the shape that a model wants."""
    shape, is_tokens = splits.sample_shape, not splits.train.inputs.is_floating_point()
    shapes = {
        "vector": None if is_tokens else (prod(shape),),
        "sequence": None if is_tokens else (shape if len(shape) == 2 else (1, prod(shape))),
        "image": shape if len(shape) == 3 and not is_tokens else None,
        "tokens": shape if len(shape) == 1 and is_tokens else None,
    }
    wanted = shapes[layout]
    if wanted is None:
        what = "tokens" if is_tokens else "numbers"
        raise ConfigError("model", config.model, f"wants {layout} samples; {config.data} gives {what} of shape {shape}")
    return splits.mapped(lambda split: replace(split, inputs=split.inputs.reshape(len(split), *wanted).contiguous()))


def _add_dropout(layers: OrderedDict[str, nn.Module], number: int, dropout: float) -> None:
    if dropout > 0:
        layers[f"drop{number}"] = nn.Dropout(dropout)


def _from_entry_point(config: TrainConfig, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    if config.hidden:
        raise ConfigError("hidden", config.hidden, f"{config.model} decides its own widths")
    if config.dropout:
        raise ConfigError("dropout", config.dropout, f"{config.model} decides its own dropout")
    factory = load("model", config.model)
    if not callable(factory):
        raise ConfigError("model", config.model, "expected a factory (sample_shape, outputs) -> torch.nn.Module")
    expected = "(sample_shape, outputs) -> torch.nn.Module"
    if isinstance(factory, nn.Module):
        raise ConfigError("model", config.model, f"is a network; expected a function or class {expected}")
    model = called("model", config.model, factory, sample_shape, outputs, expected=expected)
    if not isinstance(model, nn.Module):
        raise ConfigError("model", config.model, f"expected a torch.nn.Module, got {type(model).__name__}")
    return model
