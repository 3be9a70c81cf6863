"""Optimisers by name or by a function of the user's own, over parameter groups by rule.

What is made here is copied for twins, joined by the parameters of seeds and saved in checkpoints. What can't be is
refused with the reason. Seeds and stacks learn in the groups of their originals, so a rule holds for them too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from esper.core.errors import ConfigError
from esper.kasmina.executor.fold.optimizer import optimizer_obstacle
from esper.tolaria.config import REFUSED_OPTIMIZERS, TrainConfig
from esper.tolaria.task.entry_point import called, load
from esper.tolaria.task.optimizers.muon import MuonAdamW

Factory = Callable[..., Optimizer]
Group = dict[str, Any]

EXPECTED = "(parameters) -> torch.optim.Optimizer"
NAMED = "named_parameters"
"""A factory whose only argument is called so gets names too."""

# Layers of which nothing is a matrix, and names of parameters that are none, whatever their shape: ViT's `pos_embed`
# and `cls_token`, Swin's `relative_position_bias_table`.
NO_MATRICES = (
    nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase,
)  # fmt: skip
NO_MATRIX_NAME = re.compile(r"embed|position|token|bias|norm")


def make_optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """The optimiser over the host's trainable parameters. Raises ConfigError for what can't be used."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("model", config.model, "has no trainable parameter")
    if ":" in config.optimizer:
        factory = load("optimizer", config.optimizer)
        return made_by(factory, model, config.optimizer)
    groups = _groups(config, model)
    if config.optimizer == "muon":
        return _muon(config, groups, model)
    return _MAKERS[config.optimizer](config, groups)


def made_by(factory: object, model: nn.Module, name: str) -> Optimizer:
    """What a function of the user's own makes of the host's trainable parameters, if a run can use it."""
    if not callable(factory):
        raise ConfigError("optimizer", name, f"expected a function {EXPECTED}")
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    given = list(trainable.items()) if _wants_names(factory) else list(trainable.values())
    optimizer = called("optimizer", name, factory, given, expected=EXPECTED)
    if not isinstance(optimizer, Optimizer):
        raise ConfigError("optimizer", name, f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    kind = type(optimizer)
    if kind.__module__.startswith("torch.") and (reason := REFUSED_OPTIMIZERS.get(kind.__name__.lower())):
        raise ConfigError("optimizer", name, f"{kind.__name__} {reason}")
    if _needs_closure(optimizer):
        raise ConfigError("optimizer", name, f"{kind.__name__}.step needs a closure; a run has none to give")
    own = {id(parameter) for parameter in model.parameters()}  # what is frozen may be thawed later
    members = [member for group in optimizer.param_groups for member in group["params"]]
    if strangers := [member for member in members if id(member) not in own]:
        sizes = list(strangers[0].shape)
        raise ConfigError("optimizer", name, f"holds a parameter {sizes} that isn't among those of the model")
    for group in optimizer.param_groups:
        group.pop("param_names", None)  # torch admits names for all groups or for none, and a seed's have none
    return optimizer


def optimizer_of(given: object, model: nn.Module) -> Optimizer:
    """A script's optimiser over the host's parameters, or what its function makes of them."""
    if isinstance(given, Optimizer):
        return made_by(lambda parameters: given, model, type(given).__name__)
    return made_by(given, model, getattr(given, "__name__", type(given).__name__))


def optimizer_doubts(optimizer: Optimizer, model: nn.Module, *, grows_spans: bool) -> Iterator[str]:
    """What a person should know of an optimiser before the run, a line each."""
    members = {id(member) for group in optimizer.param_groups for member in group["params"]}
    left = [name for name, part in model.named_parameters() if part.requires_grad and id(part) not in members]
    if left:
        yield f"the optimiser leaves {left[0]} and {len(left) - 1} other parameters out: they don't learn"
    if grows_spans and (obstacle := optimizer_obstacle(optimizer)):
        yield f"a span that is kept stays a module beside its layers: {obstacle}"


def used_before(optimizer: Any) -> str:
    """What a run that begins with an optimiser of an earlier one should tell; empty for one at its first rates."""
    if not isinstance(optimizer, Optimizer) or not optimizer.state:
        return ""
    default = optimizer.defaults.get("lr")
    for group in optimizer.param_groups:
        rate, first = float(group["lr"]), group.get("initial_lr", default)
        if first is not None and rate < float(first):
            told = f"its rate stands at {rate:.3g}, its first was {float(first):.3g}"
            remedy = "for a fresh start make it anew, or set the rate of each group"
            return f"the optimiser has made steps before: {told}; {remedy}"
    return ""


def make_capturable(optimizer: Optimizer) -> None:
    """Let an optimiser that has made no step yet keep all of its state on the device, where a graph may change it."""
    if optimizer.state:
        return
    for settings in (optimizer.defaults, *optimizer.param_groups):
        if "capturable" in settings:
            settings["capturable"] = True


def _wants_names(factory: Callable[..., object]) -> bool:
    try:
        return next(iter(inspect.signature(factory).parameters), "") == NAMED
    except ValueError:  # callables of compiled code tell no signature
        return False


def _needs_closure(optimizer: Optimizer) -> bool:
    # Of the class: a scheduler wraps the step of its optimiser, and the signature with it.
    _, first, *_ = *inspect.signature(type(optimizer).step).parameters.values(), None
    return first is not None and first.default is first.empty and first.kind is first.POSITIONAL_OR_KEYWORD


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trainable matrices and kernels of layers: no norms, no biases, no embeddings, also where these are tied."""
    found: dict[nn.Parameter, None] = {}
    excluded: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_none = isinstance(module, NO_MATRICES) or parameter.dim() < 2 or NO_MATRIX_NAME.search(name.lower())
            excluded.update([parameter] if is_none else [])
            if parameter.requires_grad:
                found[parameter] = None
    return [parameter for parameter in found if parameter not in excluded]


def _groups(config: TrainConfig, model: nn.Module) -> list[Group]:
    """The parameters that decay, and those that don't where the rule says so; this one is there even if it is empty.

    Vectors of seeds find it then also in a host without any.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.decay_rule == "all":
        return [{"params": trainable, "weight_decay": config.weight_decay}]
    decaying = set(matrices(model))
    return [
        {"params": [member for member in trainable if member in decaying], "weight_decay": config.weight_decay},
        {"params": [member for member in trainable if member not in decaying], "weight_decay": 0.0},
    ]


def _betas(config: TrainConfig) -> tuple[float, float]:
    return _given(config.momentum, 0.9), _given(config.beta2, 0.999)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _with_betas(kind: Callable[..., Optimizer], **fixed: Any) -> Callable[[TrainConfig, list[Group]], Optimizer]:
    return lambda config, groups: kind(groups, config.lr, betas=_betas(config), **fixed)


def _sgd(config: TrainConfig, groups: list[Group]) -> Optimizer:
    momentum = _given(config.momentum, 0.9)
    return torch.optim.SGD(groups, config.lr, momentum=momentum, nesterov=config.nesterov, fused=True)


def _rmsprop(config: TrainConfig, groups: list[Group]) -> Optimizer:
    alpha, momentum = _given(config.beta2, 0.99), _given(config.momentum, 0.0)
    return torch.optim.RMSprop(groups, config.lr, alpha=alpha, momentum=momentum)


def _adagrad(config: TrainConfig, groups: list[Group]) -> Optimizer:
    """Fused on the CPU; the oldest torch that is admitted may lack its kernel for CUDA."""
    is_on_cpu = all(member.device.type == "cpu" for group in groups for member in group["params"])
    return torch.optim.Adagrad(groups, config.lr, fused=True if is_on_cpu else None)


def _adadelta(config: TrainConfig, groups: list[Group]) -> Optimizer:
    return torch.optim.Adadelta(groups, config.lr, rho=_given(config.beta2, 0.9))


def _muon(config: TrainConfig, groups: list[Group], model: nn.Module) -> Optimizer:
    """Hidden matrices by Muon, everything else by AdamW; each group of the rule is divided so, its decay stays."""
    hidden = set(_hidden_matrices(model))
    if not hidden:
        remedy = "has no matrix for it: what it takes are matrices before the output layer; use adamw"
        raise ConfigError("optimizer", "muon", f"{config.model} {remedy}")
    momentum, betas = _given(config.momentum, 0.95), (0.9, _given(config.beta2, 0.999))
    halves = []
    for group in groups:
        members = group["params"]
        halves.append({**group, "params": [part for part in members if part in hidden], "momentum": momentum})
        halves.append({**group, "params": [part for part in members if part not in hidden], "betas": betas})
    takes_none = [half for half in halves if "momentum" in half and not half["params"]]
    return MuonAdamW([half for half in halves if half not in takes_none], config.lr)


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Matrices but for those of the last layer that has any, which gives the outputs."""
    own = [[part for part in layer.parameters(recurse=False) if part.dim() >= 2] for layer in model.modules()]
    last = next((weights for weights in reversed(own) if weights), [])
    return [part for part in matrices(model) if part.dim() == 2 and not any(part is other for other in last)]


_MAKERS: dict[str, Callable[[TrainConfig, list[Group]], Optimizer]] = {
    # Fused where torch has it for the CPU too, because a small step is mostly overhead; torch chooses foreach itself.
    "adam": _with_betas(torch.optim.Adam, fused=True),
    "adamw": _with_betas(torch.optim.AdamW, fused=True),
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
    "adafactor": lambda config, groups: torch.optim.Adafactor(groups, config.lr),
    "adamax": _with_betas(torch.optim.Adamax),
    "nadam": _with_betas(torch.optim.NAdam),
    "radam": _with_betas(torch.optim.RAdam),
}
