"""Batches and outputs of any form: tensors, alone or nested in mappings, sequences and dataclasses.

A tensor whose first dimension has the size of the batch holds a sample in each row; another, such as a mask for all of
them, belongs to every sample.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError

Batch = tuple[Any, Any]
"""Inputs and targets."""
Forward = Callable[[nn.Module, Any], Any]
"""How a model is called with inputs."""


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs: a mapping is given as keywords and a sequence as arguments where its forward takes these."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping) and _takes(model, (), inputs):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)) and _takes(model, inputs, {}):
        return model(*inputs)
    return model(inputs)


def _takes(model: nn.Module, arguments: Any, keywords: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(model.forward).bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors of a value, in order."""
    return (tensor for _, tensor in named_leaves(value))


def named_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The same with their keys, those of containers in containers joined by dots."""
    if isinstance(value, Tensor):
        yield name, value
        return
    for key, part in _parts(value):
        yield from named_leaves(part, f"{name}.{key}" if name else str(key))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value of the same form whose leaves, tensors or not, are changed."""
    parts = [(key, mapped(part, change)) for key, part in _parts(value)]
    if isinstance(value, tuple):
        made = (part for _, part in parts)
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    if isinstance(value, list):
        return [part for _, part in parts]
    if isinstance(value, Mapping):
        return _with_items(value, parts)
    if _is_instance(value):
        made_anew = copy.copy(value)
        for name, part in parts:
            object.__setattr__(made_anew, name, part)
        return made_anew
    return change(value)


def samples_in(value: Any) -> int:
    """How many samples: the rows of the first tensor that has any. Raises ConfigError where none has."""
    if isinstance(value, Tensor) and value.ndim:
        return len(value)
    found = next((len(tensor) for tensor in leaves(value) if tensor.ndim), None)
    if found is None:
        raise ConfigError("data", type(value).__name__, "holds no tensor with a sample in each row")
    return found


def taken(batch: Batch, start: int, stop: int) -> Batch:
    """The samples of a batch from `start` to `stop` (not included)."""
    inputs, targets = batch
    samples = samples_in(inputs)

    def of(leaf: Any) -> Any:
        has_rows = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == samples
        return leaf[start:stop] if has_rows else leaf

    return mapped(inputs, of), mapped(targets, of)


def first(batch: Batch, count: int) -> Batch:
    """At most so many samples, from the first one on."""
    return taken(batch, 0, count)


def first_inputs(inputs: Any, count: int) -> Any:
    """The same of inputs alone."""
    return taken((inputs, None), 0, count)[0]


def cut(batch: Batch, parts: int) -> list[Batch]:
    """The batch in so many parts, as equal as can be and the larger ones first; none is empty."""
    least, larger = divmod(samples_in(batch[0]), parts)
    sizes = [least + (number < larger) for number in range(parts)]
    return [taken(batch, end - size, end) for end, size in zip(_sums(sizes), sizes, strict=True) if size]


def shapes(value: Any) -> tuple[torch.Size, ...]:
    """The shapes of a value's tensors: alike for batches of one form."""
    return tuple(tensor.shape for tensor in leaves(value))


def logits_in(outputs: Any) -> Any:
    """The `logits` of outputs that hold some by that name, else the outputs."""
    if isinstance(outputs, Tensor):
        return outputs
    found = next((part for name, part in _parts(outputs) if name == "logits"), None)
    return found if isinstance(found, Tensor) else outputs


def as_one(outputs: Any, name: str) -> Tensor:
    """Outputs as one tensor, so that two of them can be compared: several are put behind each other.

    Raises ConfigError, which names the model, where there is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = [tensor for tensor in leaves(outputs) if tensor.is_floating_point()]
    if not found:
        what = f"returns {type(outputs).__name__}, expected a tensor, or a mapping, sequence or dataclass of some"
        raise ConfigError("model", name, what)
    return found[0] if len(found) == 1 else torch.cat([tensor.flatten() for tensor in found])


def _sums(sizes: list[int]) -> Iterator[int]:
    total = 0
    for size in sizes:
        total += size
        yield total


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, with its keys; nothing of what is none."""
    if isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif _is_instance(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _is_instance(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _with_items(value: Mapping[Any, Any], parts: list[tuple[Any, Any]]) -> Mapping[Any, Any]:
    """A mapping of the same type where its items can be set, else a dict."""
    if type(value) is dict or not hasattr(value, "__setitem__"):
        return dict(parts)
    made: Any = copy.copy(value)
    for key, part in parts:
        made[key] = part
    return made  # type: ignore[no-any-return]
