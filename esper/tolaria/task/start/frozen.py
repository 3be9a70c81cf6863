"""Parts of a host that don't learn: their weights keep every bit, and BatchNorms in them their statistics too.

Seeds beside them learn. What the model's own code has frozen stays so.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.start.patterns import check_patterns, fits

COMPILED = "_orig_mod."


def freeze(config: TrainConfig, model: nn.Module) -> None:
    """Freeze what `freeze` names, or all but what `train_only` names. Raises ConfigError where nothing is left."""
    if not (config.freeze or config.train_only):
        return
    named = [(_plain(name), part) for name, part in model.named_parameters(remove_duplicate=False)]
    setting, patterns = _rule(config)
    check_patterns(setting, patterns, [name for name, _ in named])
    chosen = {id(part) for name, part in named if fits(name, patterns)}
    for _, part in named:
        if (id(part) in chosen) == (setting == "freeze"):
            part.requires_grad_(False)
    if not any(part.requires_grad for _, part in named):
        raise ConfigError(setting, ",".join(patterns), "leaves no parameter that learns; leave out a part, as the head")
    keep_statistics(config, model)


def keep_statistics(config: TrainConfig, model: nn.Module) -> None:
    """Eval mode for normalisations that the settings freeze, which would otherwise go on gathering statistics."""
    setting, patterns = _rule(config)
    norms = [(_plain(path), module) for path, module in model.named_modules() if isinstance(module, _NormBase)]
    for path, norm in norms if patterns else ():
        names = [f"{path}.{leaf}" for leaf, _ in norm.named_parameters(recurse=False)] or [path]
        if all(fits(name, patterns) == (setting == "freeze") for name in names):
            norm.eval()


def _rule(config: TrainConfig) -> tuple[str, tuple[str, ...]]:
    return ("freeze", config.freeze) if config.freeze else ("train_only", config.train_only)


def _plain(name: str) -> str:
    return f"{name}.".replace(COMPILED, "").removesuffix(".")
