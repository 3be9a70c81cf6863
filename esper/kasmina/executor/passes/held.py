"""What a module holds beside parameters, put back after foreign code has run in it: attributes, counters, generators.

Attributes are put back by identity, the containers among them with their content, tensors that are no part of a graph
with their values. What hides inside other objects isn't seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

PutBack = Callable[[], None]
Remember = Callable[[Any, set[int]], PutBack | None]


@contextmanager
def held(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Whatever happens inside, the modules' attributes are as before afterwards."""
    memo: set[int] = set()
    # A compiled script keeps its buffers elsewhere than other modules.
    parts = [
        (module, type(module), _inner((vars(module), *module.buffers(recurse=False)), memo))
        for root in modules
        for module in root.modules()
    ]
    try:
        yield
    finally:
        for module, kind, put_backs in parts:
            # A lazy module that has just learnt its sizes is another class now, and stays that.
            if type(module) is kind:
                _call(put_backs)


def _remember(value: Any, memo: set[int]) -> PutBack | None:
    """What undoes later changes of a value; None for a value that can't change or has been seen."""
    remember = _remembering(type(value))  # type: ignore[arg-type]
    if remember is None or id(value) in memo:
        return None
    memo.add(id(value))
    return remember(value, memo)


@cache
def _remembering(kind: type) -> Remember | None:
    return next((remember for kinds, remember in _KINDS if issubclass(kind, kinds)), None)


def _dict(value: dict[Any, Any], memo: set[int]) -> PutBack:
    items = dict(value)
    inner = _inner(items.values(), memo)

    def put_back() -> None:
        if list(value) != list(items) or any(value[key] is not item for key, item in items.items()):
            value.clear()
            value.update(items)
        _call(inner)

    return put_back


def _sequence(value: Any, memo: set[int]) -> PutBack:
    items = list(value)
    inner = _inner(items, memo)

    def put_back() -> None:
        if len(value) != len(items) or any(a is not b for a, b in zip(value, items, strict=True)):
            value.clear()
            value.extend(items)
        _call(inner)

    return put_back


def _set(value: set[Any], memo: set[int]) -> PutBack:
    items = set(value)

    def put_back() -> None:
        value.clear()
        value.update(items)

    return put_back


def _generator(value: torch.Generator, memo: set[int]) -> PutBack:
    state = value.get_state()

    def put_back() -> None:
        value.set_state(state)

    return put_back


def _tensor(value: Tensor, memo: set[int]) -> PutBack | None:
    """Values of buffers and of plain tensors; parameters and what belongs to a graph are left alone."""
    if value.requires_grad or isinstance(value, nn.Parameter) or nn.parameter.is_lazy(value) or value.is_inference():
        return None
    before = value.detach().clone()

    def put_back() -> None:
        with torch.no_grad():
            value.copy_(before)

    return put_back


def _inner(values: Iterable[Any], memo: set[int]) -> list[PutBack]:
    return [put_back for value in values if (put_back := _remember(value, memo)) is not None]


def _call(put_backs: list[PutBack]) -> None:
    for put_back in put_backs:
        put_back()


_KINDS: tuple[tuple[tuple[type, ...], Remember], ...] = (
    ((Tensor,), _tensor),
    ((dict,), _dict),
    ((list, deque), _sequence),
    ((set,), _set),
    ((torch.Generator,), _generator),
)
