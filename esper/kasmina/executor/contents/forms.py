"""The plain form of each kind of value that a network may hold: how it is read, and how it is put back in its place.

A table of kinds, asked in order. A kind with a mark needs something of its own to be there already.
"""

from __future__ import annotations

import random
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.kasmina.executor.contents import containers, objects
from esper.kasmina.executor.contents.containers import ABSENT, Code

Read = Callable[[Any, Callable[[Any, str], Code]], Any]
Write = Callable[[Any, Any, Callable[[Code, Any], Any], Callable[[Any], Any]], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """`read(value, code)` gives the content; `write(content, target, value, note)` gives the value back.

    `target` is what stands there; `note` must be told of a container before its members are made.
    """

    kind: str
    fits: Callable[[Any], bool]
    read: Read
    write: Write
    mark: Callable[[Any], Any] | None = None


def is_writable(tensor: Tensor) -> bool:
    """Whether each element has memory of its own: nobody can write to an expanded or an inference tensor."""
    if tensor.is_inference():
        return False
    return tensor.layout != torch.strided or all(
        size <= 1 or stride != 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _write_tensor(content: Any, target: Any, value: Any, note: Any) -> Tensor:
    saved, device = content
    if isinstance(target, Tensor) and target.is_leaf and _is_alike(target, saved):
        if is_writable(target):
            with torch.no_grad():
                target.copy_(saved)
            return target
        if torch.equal(target.to(saved.device), saved):
            return target
    made: Tensor = saved.to(device, copy=True)
    return made


def _is_alike(tensor: Tensor, saved: Tensor) -> bool:
    return tensor.shape == saved.shape and tensor.dtype == saved.dtype


def _write_generator(content: Any, target: Any, value: Any, note: Any) -> torch.Generator:
    device, state = content
    is_there = isinstance(target, torch.Generator) and str(target.device) == device
    generator: torch.Generator = target if is_there else torch.Generator(device)
    generator.set_state(state.cpu())
    return generator


def _refers_to_a_part(value: Any) -> bool:
    """Whether it is a weak reference to a module or tensor, or to something that is gone."""
    return type(value) is weakref.ref and isinstance(value(), (nn.Module, Tensor, type(None)))


def _write_reference(content: Any, target: Any, value: Any, note: Any) -> Any:
    current = target() if type(target) is weakref.ref else ABSENT
    referent = value(content, current)
    if referent is current or referent is ABSENT:
        return target
    return weakref.ref(torch.empty(0) if referent is None else referent)  # an empty tensor is gone at once


def _write_random(content: Any, target: Any, value: Any, note: Any) -> random.Random:
    generator = target if isinstance(target, random.Random) else random.Random()
    generator.setstate(content)
    return generator


def _write_numpy(content: Any, target: Any, value: Any, note: Any) -> Any:
    if isinstance(target, np.random.Generator):
        target.bit_generator.state = value(content, ABSENT)
    elif isinstance(target, np.random.RandomState):
        target.set_state(value(content, ABSENT))
    return target


def _write_array(content: Tensor, target: Any, value: Any, note: Any) -> Any:
    saved = content.numpy()
    if isinstance(target, np.ndarray) and target.shape == saved.shape and target.dtype == saved.dtype:
        target[...] = saved
        return target
    return saved.copy()


FORMS: tuple[Form, ...] = (
    Form(
        kind="growth",
        fits=lambda value: isinstance(value, objects.GoesBy),
        read=lambda value, code: None,
        write=lambda content, target, value, note: target,
    ),
    Form(
        kind="tensor",
        fits=lambda value: isinstance(value, Tensor) and not nn.parameter.is_lazy(value),
        read=lambda tensor, code: (tensor.detach().clone(), str(tensor.device)),
        write=_write_tensor,
    ),
    Form(
        kind="generator",
        fits=lambda value: isinstance(value, torch.Generator),
        read=lambda generator, code: (str(generator.device), generator.get_state()),
        write=_write_generator,
    ),
    Form(
        kind="reference",
        fits=_refers_to_a_part,
        read=lambda reference, code: code(reference(), "()"),
        write=_write_reference,
    ),
    Form(
        kind="random",
        fits=lambda value: type(value) is random.Random,
        read=lambda generator, code: generator.getstate(),
        write=_write_random,
    ),
    Form(
        kind="numpy generator",
        fits=lambda value: isinstance(value, np.random.Generator),
        read=lambda generator, code: code(generator.bit_generator.state, ".state"),
        write=_write_numpy,
        mark=lambda generator: type(generator.bit_generator),
    ),
    Form(
        kind="numpy random state",
        fits=lambda value: isinstance(value, np.random.RandomState),
        read=lambda generator, code: code(generator.get_state(legacy=False), ".state"),
        write=_write_numpy,
        mark=type,
    ),
    Form(
        kind="array",
        fits=lambda value: type(value) is np.ndarray and value.dtype.kind in "biufc",
        read=lambda array, code: torch.from_numpy(array.copy()),
        write=_write_array,
    ),
    Form(
        kind="number",
        fits=lambda value: isinstance(value, np.generic) and value.dtype.kind in "biufc",
        read=lambda number, code: (number.dtype.str, number.item()),
        write=lambda content, target, value, note: np.dtype(content[0]).type(content[1]),
    ),
    Form(
        kind="list",
        fits=lambda value: isinstance(value, list),
        read=containers.read_items,
        write=containers.write_list,
        mark=containers.kind_of_its_own,
    ),
    Form(
        kind="tuple",
        fits=lambda value: isinstance(value, tuple),
        read=containers.read_items,
        write=containers.write_tuple,
        mark=containers.kind_of_its_own,
    ),
    Form(
        kind="deque",
        fits=lambda value: type(value) is deque,
        read=lambda values, code: (values.maxlen, containers.read_items(values, code)),
        write=containers.write_deque,
    ),
    Form(
        kind="ordered dict",
        fits=lambda value: type(value) is OrderedDict and containers.has_plain_keys(value),
        read=containers.read_dict,
        write=containers.dict_writer(OrderedDict),
    ),
    Form(
        kind="dict",
        fits=containers.has_plain_keys,
        read=containers.read_dict,
        write=containers.dict_writer(dict),
        mark=containers.kind_of_its_own,
    ),
    Form(
        kind="set",
        fits=lambda value: type(value) is set and all(containers.is_plain(member) for member in value),
        read=lambda values, code: list(values),
        write=containers.write_set,
    ),
    Form(
        kind="function",
        fits=objects.is_own_function,
        read=objects.read_function,
        write=objects.write_function,
        mark=lambda function: function.__code__,
    ),
    Form(
        kind="bound",
        fits=objects.is_bound,
        read=lambda value, code: containers.read_items(objects.bound_to(value), code),
        write=objects.write_bound,
        mark=type,
    ),
    Form(kind="object", fits=objects.is_own_object, read=objects.read_object, write=objects.write_object, mark=type),
    Form(
        kind="opaque",
        fits=lambda value: True,
        read=lambda value, code: None,
        write=lambda content, target, value, note: target,
        mark=lambda value: value,
    ),
)
