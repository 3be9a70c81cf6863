"""How lists, tuples, dicts and the like are read as plain content and filled again where they stand.

Whoever shares a container goes on sharing it; one that isn't there is made anew if its class is a common one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import torch

# kind, number by which it is mentioned again, content, the original where it is kept
Code = tuple[str, int, Any, Any]
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
ABSENT = object()
COMMON = object()


def is_plain(value: Any) -> bool:
    """Whether the value can't change: a plain one, or a tuple of such."""
    return type(value) in PLAIN or (type(value) is tuple and all(is_plain(part) for part in value))


def read_items(values: Any, code: Callable[[Any, str], Code]) -> list[Code]:
    return [code(value, f"[{index}]") for index, value in enumerate(values)]


def written_items(codes: list[Code], before: list[Any], value: Callable[[Code, Any], Any]) -> list[Any]:
    made = [value(code, before[index] if index < len(before) else ABSENT) for index, code in enumerate(codes)]
    return [None if item is ABSENT else item for item in made]


def write_list(content: Any, target: Any, value: Any, note: Any) -> list[Any]:
    made: list[Any] = note(target if isinstance(target, list) else [])
    made[:] = written_items(content, list(made), value)
    return made


def write_deque(content: Any, target: Any, value: Any, note: Any) -> deque[Any]:
    length, codes = content
    made: deque[Any] = note(target if type(target) is deque and target.maxlen == length else deque(maxlen=length))
    items = written_items(codes, list(made), value)
    made.clear()
    made.extend(items)
    return made


def write_tuple(content: Any, target: Any, value: Any, note: Any) -> tuple[Any, ...]:
    before = list(target) if isinstance(target, tuple) else []
    items = written_items(content, before, value)
    if isinstance(target, tuple) and len(items) == len(before) and all(map(_is_unchanged, items, before)):
        return target
    made: tuple[Any, ...] = type(target)._make(items) if hasattr(type(target), "_make") else tuple(items)
    return made


def _is_unchanged(value: Any, before: Any) -> bool:
    return value is before or (type(value) in PLAIN and type(value) is type(before) and bool(value == before))


def kind_of_its_own(value: Any) -> Any:
    """A container's class is a mark unless it is a common one, which can be made anew."""
    return COMMON if type(value) in (list, tuple, dict, OrderedDict) else type(value)


def has_plain_keys(value: Any) -> bool:
    return isinstance(value, dict) and all(is_plain(key) for key in value)


def read_dict(values: Any, code: Callable[[Any, str], Code]) -> list[tuple[Any, Code]]:
    return [(key, code(value, f"[{key!r}]")) for key, value in values.items()]


def dict_writer(kind: type) -> Callable[..., Any]:
    def write(content: Any, target: Any, value: Any, note: Any) -> Any:
        made = note(target if isinstance(target, dict) else kind())
        items = [(key, value(code, made.get(key, ABSENT))) for key, code in content]
        made.clear()
        made.update(items)
        return made

    return write


def write_set(content: Any, target: Any, value: Any, note: Any) -> set[Any]:
    made: set[Any] = target if type(target) is set else set()
    made.clear()
    made.update(content)
    return made
