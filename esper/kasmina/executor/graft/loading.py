"""Gives a network the values of a saved one: all at once where no module has a way of its own, else as torch does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from esper.kasmina.executor.contents.filling import Pair
from esper.kasmina.executor.contents.storages import has_storage

USUAL = frozenset({nn.Module._load_from_state_dict, _NormBase._load_from_state_dict})
"""Ways to load that copy values and nothing else, once every name is there."""
HOOKS = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks", "_state_dict_pre_hooks")
EXTRA_STATE = "_extra_state"
KINDS = (Tensor, nn.Parameter)


def pairs_to_load(model: nn.Module, saved: Mapping[str, Any]) -> list[Pair] | None:
    """Each tensor of the network with its saved value, which alone is what `load_state_dict` would change.

    None where a module loads in a way of its own, or where names, shapes or layouts differ.
    """
    if not all(_is_usual(module) for module in model.modules()):
        return None
    own = model.state_dict(keep_vars=True)
    if own.keys() != saved.keys():
        return None
    pairs = {id(tensor): (tensor, saved[name]) for name, tensor in own.items()}  # of a tied one the last counts
    if not all(_fits(tensor, value) for tensor, value in pairs.values()):
        return None
    if any(name.endswith(EXTRA_STATE) for name in own):
        return None
    return list(pairs.values())


def _is_usual(module: nn.Module) -> bool:
    kind, own = type(module), vars(module)
    return (
        kind._load_from_state_dict in USUAL
        and kind.load_state_dict is nn.Module.load_state_dict
        and kind.state_dict is nn.Module.state_dict
        and not any(own.get(name) for name in HOOKS)
    )


def _fits(tensor: Any, value: Any) -> bool:
    return (
        type(tensor) in KINDS
        and type(value) in KINDS
        and tensor.shape == value.shape
        and has_storage(tensor)
        and has_storage(value)
        and tensor.stride() == value.stride()
    )
