"""A configuration's word on widths: the fields that say one, raised, and the network that would be built from them.

A small table of names over all families; whether one means them so is tried by building the network without memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.slots.layers import features_in
from esper.kasmina.executor.slots.slot import Slot

Undo = Callable[[], None]
Change = tuple[str, int, int]
"""A number in a configuration of a kind, as it is and as it should be."""
Shapes = Mapping[str, tuple[int, ...]]

FIELDS: Mapping[str, tuple[str, ...]] = {
    "width": ("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "d_ff"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
    "groups": ("num_key_value_heads", "num_kv_heads", "n_kv_heads"),
}
# Fields that mean a multiple of another size where they are empty.
EMPTY = frozenset({"n_inner"})


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A network with a configuration, and where it stands in the host."""

    path: str
    network: nn.Module

    @property
    def prefix(self) -> str:
        return f"{self.path}." if self.path else ""

    @property
    def config(self) -> Any:
        return self.network.config


def find_pretrained(model: nn.Module) -> Iterator[Pretrained]:
    """The outermost networks that are saved with a configuration."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path.startswith(inside) and inside:
            continue
        if callable(getattr(module, "save_pretrained", None)) and hasattr(module, "config"):
            inside = (*inside, f"{path}." if path else "")
            yield Pretrained(path, module)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of parameters and saved buffers, by name."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def built(network: nn.Module, config: Any) -> nn.Module:
    """What the configuration builds, without memory for its weights."""
    with torch.device("meta"):
        fresh: nn.Module = type(network)(config)
    return fresh


def _read_again(config: Any) -> Any:
    """The configuration as who loads it gets it: many check their numbers only then."""
    return type(config).from_dict(config.to_dict()) if hasattr(type(config), "from_dict") else config


def raised(config: Any, changes: list[Change]) -> Any:
    """A copy of the configuration with these numbers raised, wherever it says them."""
    new = copy.deepcopy(config)
    for kind, before, after in changes:
        for name in FIELDS[kind]:
            value = getattr(new, name, None)
            if value == before or (name in EMPTY and hasattr(new, name) and value is None):
                setattr(new, name, after)
    return new


def misfit(network: nn.Module, config: Any, wanted: Shapes) -> str:
    """Why the configuration doesn't build a network of these shapes; empty if it does."""
    name = type(config).__name__
    try:
        found = shapes_of(built(network, _read_again(config)))
    except Exception as error:  # noqa: BLE001 - foreign code, with numbers that its authors didn't foresee
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return f"{name} refuses it ({in_words(cause)})"
    for tensor, shape in wanted.items():
        if found.get(tensor) != shape:
            return f"{name} can't say it: {tensor} would be {list(found.get(tensor, ()))}, expected {list(shape)}"
    return ""


def changes_of(model: nn.Module, slot: Slot, by: int) -> list[Change]:
    """What a configuration that says the slot's width must say once it has grown: by features, or groups of heads."""
    read = features_in(model.get_submodule(slot.write_path))
    if slot.heads is None:
        width = read // slot.columns
        return [("width", width, width + by)]
    each, groups = slot.heads.each, read // slot.heads.columns
    return [("heads", each * groups, each * (groups + by)), ("groups", groups, groups + by)]


def say(pretrained: Pretrained, changes: list[Change]) -> Undo | None:
    """Let the configuration say what the network has become, if it can."""
    config, new = pretrained.config, raised(pretrained.config, changes)
    if misfit(pretrained.network, new, shapes_of(pretrained.network)):
        return None
    names = [name for names in FIELDS.values() for name in names if hasattr(config, name)]
    before = {name: getattr(config, name) for name in names}

    def undo() -> None:
        for name, value in before.items():
            setattr(config, name, value)

    for name in names:
        setattr(config, name, getattr(new, name))
    return undo
