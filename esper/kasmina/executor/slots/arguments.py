"""What a module is called with, for a seed that calls a module of its own with the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments by position and by name."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    @classmethod
    def without_cache(cls, positional: Sequence[Any], named: Mapping[str, Any]) -> Arguments:
        """The arguments; caches of keys and values, which belong to the host's heads, are none."""
        values = (None if _is_cache(value) else value for value in positional)
        return cls(tuple(values), {name: None if _is_cache(value) else value for name, value in named.items()})

    def detached(self) -> Arguments:
        """The same values without their gradients."""
        named = {name: _detached(value) for name, value in self.named.items()}
        return Arguments(tuple(_detached(value) for value in self.positional), named)


def has_past(value: Any, layer: int) -> bool:
    """Whether it is a cache that holds earlier positions of a layer."""
    return _is_cache(value) and bool(value.get_seq_length(layer))


def leading_tensor(value: Any) -> Tensor:
    """The tensor that a module gives, or the first of what it gives."""
    if isinstance(value, Tensor):
        return value
    found: Tensor = next(item for item in value if isinstance(item, Tensor))
    return found


def _is_cache(value: Any) -> bool:
    return not isinstance(value, Tensor) and hasattr(value, "get_seq_length") and hasattr(value, "update")


def _detached(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_detached(item) for item in value)
    return value.detach() if isinstance(value, Tensor) else value
