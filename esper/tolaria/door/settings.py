"""A script's settings: those of the launcher, by the same names, refused in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.core.settings.config import converted
from esper.tolaria.config import TrainConfig

GIVEN = "given"
"""How settings name what a script hands over as an object."""


def config_from(config: TrainConfig | Mapping[str, Any] | None) -> TrainConfig:
    """Settings as they are, or by name. Raises ConfigError with the nearest known name for an unknown one."""
    if isinstance(config, TrainConfig):
        return config
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            "config", type(config).__name__, "expected a mapping of settings by name, or esper.TrainConfig"
        )
    values = dict(config or {})
    known = [setting.name for setting in fields(TrainConfig)]
    for name in values:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "tolaria-train --print-config lists all"
            raise ConfigError(str(name), values[name], f"is no setting; {hint}")
    weights = values.get("class_weights")
    if isinstance(weights, (Tensor, list, tuple)):
        numbers = weights.flatten().tolist() if isinstance(weights, Tensor) else weights
        values["class_weights"] = ",".join(map(str, numbers))
    return TrainConfig(**converted(TrainConfig, values))


def check_surroundings() -> None:
    """Raises ConfigError where nothing can learn."""
    if not torch.is_grad_enabled():
        raise ConfigError("grad", "off", "no gradients inside torch.no_grad() or inference_mode(): train outside of it")
    is_lowered = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    if is_lowered and torch.is_autocast_cache_enabled():
        stale = "one region of torch.autocast keeps its casts of weights, so that no pass would see a step"
        remedy = "leave it, and set amp for esper.train; in a loop of your own give a region to each step"
        raise ConfigError("autocast", "on", f"{stale}: {remedy}")


def named(config: TrainConfig, *, model: Any, data: Any) -> TrainConfig:
    """The settings with names for what is handed over: those of a run that is resumed must be the same."""
    model_name = _kind(model) if isinstance(model, nn.Module) else str(model)
    data_name = data if isinstance(data, str) else GIVEN
    default = TrainConfig()
    for name, value in (("model", model_name), ("data", data_name)):
        if (set_to := getattr(config, name)) not in (getattr(default, name), value):
            raise ConfigError(name, set_to, f"is given twice: in the settings, and as {value}; leave one out")
    return replace(config, model=model_name, data=data_name)


def _kind(model: nn.Module) -> str:
    return f"{type(model).__module__}:{type(model).__qualname__}"
