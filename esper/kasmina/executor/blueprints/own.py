"""A user's own factory: loaded from verified bytes, asked for a module, held to what a slot needs of it.

The function gets a `SeedShape`, the blueprint's parameters by name, and the tensors that came with it by name (none
without a file of weights). What it returns computes the correction that is added to the activation it reads.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from esper.core.errors import CorruptRecord, GraftFailed
from esper.kasmina.executor.blueprints.parts import placement, require_kind
from esper.kasmina.executor.slots.slot import RESIDUAL_KINDS, Slot
from esper.leyline import SeedRecipe

Factory = Callable[[nn.Module, Slot, Mapping[str, float]], nn.Module]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedShape:
    """What a factory builds for. The module gets and gives (batch, ..., features), or (batch, features, ...) over
    `position_dims` spatial dimensions where that is above zero."""

    features: int
    position_dims: int
    """Spatial dimensions behind the channels; 0 where the features come last."""
    is_causal: bool
    """Whether what it adds at a position must not depend on later ones."""


def load_factory(recipe: SeedRecipe, source: bytes, weights: bytes | None) -> Factory:
    """The factory that a recipe names. Its file runs here: the caller has verified source and weights.

    Raises GraftFailed where the file raises or lacks the function, CorruptRecord for weights that are no safetensors.
    """
    for content, file in ((source, recipe.source), (weights, recipe.weights)):
        if content is not None and hashlib.sha256(content).hexdigest() != file.digest:
            raise CorruptRecord(f"{file.name} of blueprint {recipe.blueprint_id} is not what its recipe names")
    tensors = _tensors(recipe, weights)
    function = _function(recipe, source)

    def build(host: nn.Module, slot: Slot, parameters: Mapping[str, float]) -> nn.Module:
        require_kind(slot, recipe.blueprint_id, *RESIDUAL_KINDS)
        position_dims = slot.dims - 2 if slot.is_conv else 0
        shape = SeedShape(features=slot.features, position_dims=position_dims, is_causal=slot.is_causal)
        given = {name: tensor.clone() for name, tensor in tensors.items()}
        with _blamed(recipe, "raised"):
            module = function(shape, dict(parameters), given)
        if not isinstance(module, nn.Module):
            raise GraftFailed(f"{_place(recipe)} returned {type(module).__name__}, expected a torch.nn.Module")
        return module.to(**placement(host, slot))

    return build


def _function(recipe: SeedRecipe, source: bytes) -> Callable[..., Any]:
    """The file as a module of its own, whose tracebacks show its lines."""
    name = f"esper_own_{recipe.source.digest[:16]}"
    filename = f"<{recipe.source.name} {recipe.source.digest[:12]}>"
    module = ModuleType(name)
    module.__file__ = filename
    with _blamed(recipe, "can't be loaded:"):
        text = source.decode("utf-8")
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        sys.modules[name] = module  # dataclasses and pickles look their classes up there
        exec(compile(text, filename, "exec"), module.__dict__)
    function = getattr(module, recipe.entry, None)
    if not callable(function):
        raise GraftFailed(f"{recipe.source.name} of blueprint {recipe.blueprint_id} has no function {recipe.entry!r}")
    found: Callable[..., Any] = function
    return found


def _tensors(recipe: SeedRecipe, weights: bytes | None) -> dict[str, Tensor]:
    if weights is None:
        return {}
    try:
        return load(weights)
    except (SafetensorError, ValueError) as error:
        why = f"{recipe.weights.name} of blueprint {recipe.blueprint_id} is no file of safetensors: {error}"
        raise CorruptRecord(why) from error


class _blamed:  # noqa: N801 - reads as a clause
    """Whatever the user's code raises becomes one line that says where."""

    def __init__(self, recipe: SeedRecipe, what: str) -> None:
        self._recipe = recipe
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (Exception, SystemExit)):
            first = (str(error).splitlines() or [""])[0]
            line = next((row for row in reversed(list(_lines(trace))) if row), "")
            why = f"{_place(self._recipe)} {self._what} {type(error).__name__}: {first}{line}"
            raise GraftFailed(why) from error


def _lines(trace: Any) -> Any:
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith("<"):
            yield f" (line {trace.tb_lineno})"
        trace = trace.tb_next


def _place(recipe: SeedRecipe) -> str:
    return f"{recipe.entry} in {recipe.source.name} of blueprint {recipe.blueprint_id}"
