"""Whether two blocks are of one kind: class, public attributes, and the shapes of parameters and buffers, throughout.

What a block knows of its own place may differ: it is rewritten in a copy (POSITIONS) or goes with the copy (PATTERNS).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

# Attributes that hold a block's index in its container.
POSITIONS = frozenset({"layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "block_id"})
# Attributes that follow a pattern along the blocks; a run repeated in order repeats the pattern.
PATTERNS = frozenset(
    {
        "drop_prob",
        "drop_path",
        "layer_type",
        "attention_type",
        "is_sliding",
        "sliding_window",
        "window_size",
        "shift_size",
    }
)
# Submodules that leave whole branches out at rates which rise along the blocks; of rate 0 they are often an Identity.
# Without tensors of their own nothing else can set them apart, and each goes with its copy.
STOCHASTIC = frozenset({"drop_path", "drop_path1", "drop_path2", "stochastic_depth"})
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def difference(left: nn.Module, right: nn.Module) -> str:
    """The first thing that sets two blocks apart, in words; empty if they are of one kind."""
    modules = dict(left.named_modules()), dict(right.named_modules())
    if list(modules[0]) != list(modules[1]):
        return f"submodules {_odd(list(modules[0]), list(modules[1]))}"
    for path, module in modules[0].items():
        if _is_stochastic(path, module, modules[1][path]):
            continue
        if found := _module_difference(module, modules[1][path]):
            return f"{path}.{found}" if path else found
    return ""


def _is_stochastic(path: str, *modules: nn.Module) -> bool:
    has_tensors = any(module._parameters or module._buffers for module in modules)
    return path.rpartition(".")[2] in STOCHASTIC and not has_tensors


def _module_difference(left: nn.Module, right: nn.Module) -> str:
    if _kind(left) is not _kind(right):
        return f"class {_both(type(left), type(right))}"
    for kind in ("_parameters", "_buffers"):
        tensors = getattr(left, kind), getattr(right, kind)
        if list(tensors[0]) != list(tensors[1]):
            return f"{kind[1:]} {_odd(list(tensors[0]), list(tensors[1]))}"
        for name, tensor in tensors[0].items():
            if _facts(tensor) != _facts(tensors[1][name]):
                return f"{name}: {_facts(tensor)} and {_facts(tensors[1][name])}"
    attributes = _public(left), _public(right)
    for name in sorted(attributes[0].keys() | attributes[1].keys()):
        values = attributes[0].get(name), attributes[1].get(name)
        if name not in POSITIONS | PATTERNS and not _alike(*values):
            told = repr(values[0]), repr(values[1])
            return f"{name}: {' and '.join(told) if told[0] != told[1] else _both(*map(type, values))}"
    return ""


def _kind(module: nn.Module) -> type:
    """Its class; torch gives each parametrised layer one of its own, which is derived from the layer's."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def _both(left: type, right: type) -> str:
    """Two classes, told apart: a function that defines a class makes another of its name in each call."""
    if left.__name__ != right.__name__:
        return f"{left.__name__} and {right.__name__}"
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in (left, right)]
    if names[0] != names[1]:
        return " and ".join(names)
    return f"{names[0]}, of which there are two: define it once, outside of what makes the blocks"


def _public(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}


def _alike(left: Any, right: Any) -> bool:
    """Plain values are equal, containers element by element; of other objects only the type can be asked."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, PLAIN):
        return bool(left == right)
    if isinstance(left, Tensor):
        return _facts(left) == _facts(right)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_alike, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_alike(value, right[key]) for key, value in left.items())
    return True


def _facts(tensor: Tensor | None) -> str:
    if tensor is None:
        return "none"
    kind = "" if not isinstance(tensor, nn.Parameter) else ", trained" if tensor.requires_grad else ", frozen"
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}{kind}"


def _odd(left: Sequence[str], right: Sequence[str]) -> str:
    odd = [name for name in left if name not in right] + [name for name in right if name not in left]
    return f"{', '.join(map(repr, odd[:3]))} in one of them only" if odd else "in another order"
