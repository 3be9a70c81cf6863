"""The plain form of each kind of value that a network may hold: how it is read, and how it is put back in its place.

A table of kinds, asked in order. A kind with a mark needs something of its own to be there already.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import pickle
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# kind, number by which it is mentioned again, content, the original where it is kept
Code = tuple[str, int, Any, Any]
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
ABSENT = object()
COMMON = object()
# What is machinery of every module rather than state of one.
MACHINERY = frozenset(vars(nn.Module())) - {"training"} | {"_compiled_call_impl"}
REGISTERS = ("_parameters", "_buffers", "_modules")
# Libraries whose functions and objects hold nothing of a network.
FOREIGN = ("esper.", "torch", "numpy")


class GoesBy:
    """Base of hooks that growth hangs on a host: they hold nothing of the host's."""


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


def _read_items(values: Any, code: Callable[[Any, str], Code]) -> list[Code]:
    return [code(value, f"[{index}]") for index, value in enumerate(values)]


def _written_items(codes: list[Code], before: list[Any], value: Callable[[Code, Any], Any]) -> list[Any]:
    made = [value(code, before[index] if index < len(before) else ABSENT) for index, code in enumerate(codes)]
    return [None if item is ABSENT else item for item in made]


def _write_list(content: Any, target: Any, value: Any, note: Any) -> list[Any]:
    made: list[Any] = note(target if isinstance(target, list) else [])
    made[:] = _written_items(content, list(made), value)
    return made


def _write_deque(content: Any, target: Any, value: Any, note: Any) -> deque[Any]:
    length, codes = content
    made: deque[Any] = note(target if type(target) is deque and target.maxlen == length else deque(maxlen=length))
    items = _written_items(codes, list(made), value)
    made.clear()
    made.extend(items)
    return made


def _write_tuple(content: Any, target: Any, value: Any, note: Any) -> tuple[Any, ...]:
    before = list(target) if isinstance(target, tuple) else []
    items = _written_items(content, before, value)
    if isinstance(target, tuple) and len(items) == len(before) and all(map(_is_unchanged, items, before)):
        return target
    made: tuple[Any, ...] = type(target)._make(items) if hasattr(type(target), "_make") else tuple(items)
    return made


def _is_unchanged(value: Any, before: Any) -> bool:
    return value is before or (type(value) in PLAIN and type(value) is type(before) and bool(value == before))


def _kind_of_its_own(value: Any) -> Any:
    """A container's class is a mark unless it is a common one, which can be made anew."""
    return COMMON if type(value) in (list, tuple, dict, OrderedDict) else type(value)


def _has_plain_keys(value: Any) -> bool:
    return isinstance(value, dict) and all(is_plain(key) for key in value)


def is_plain(value: Any) -> bool:
    """Whether the value can't change: a plain one, or a tuple of such."""
    return type(value) in PLAIN or (type(value) is tuple and all(is_plain(part) for part in value))


def _read_dict(values: Any, code: Callable[[Any, str], Code]) -> list[tuple[Any, Code]]:
    return [(key, code(value, f"[{key!r}]")) for key, value in values.items()]


def _dict_writer(kind: type) -> Write:
    def write(content: Any, target: Any, value: Any, note: Any) -> Any:
        made = note(target if isinstance(target, dict) else kind())
        items = [(key, value(code, made.get(key, ABSENT))) for key, code in content]
        made.clear()
        made.update(items)
        return made

    return write


def _write_set(content: Any, target: Any, value: Any, note: Any) -> set[Any]:
    made: set[Any] = target if type(target) is set else set()
    made.clear()
    made.update(content)
    return made


def _is_own_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and not (value.__module__ or "").startswith(FOREIGN)


def _read_function(function: Any, code: Callable[[Any, str], Code]) -> dict[str, Code]:
    return {name: code(cell.cell_contents, f"({name})") for name, cell in variables(function)}


def variables(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """What the function closes over, as far as it is assigned."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            _ = cell.cell_contents
        except ValueError:
            continue
        yield name, cell


def _write_function(content: Any, target: Any, value: Any, note: Any) -> Any:
    if not isinstance(target, types.FunctionType):
        return target
    note(target)
    for name, cell in variables(target):
        if name in content:
            cell.cell_contents = value(content[name], cell.cell_contents)
    return target


def _bound_to(value: Any) -> Any:
    """What a method or partial works on, as members that are put back where they stand."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return [value.__self__, getattr(value, "__func__", None)]


def _is_bound(value: Any) -> bool:
    if isinstance(value, (types.BuiltinMethodType, types.MethodWrapperType)):
        return not isinstance(value.__self__, (type, types.ModuleType, type(None)))
    return isinstance(value, (types.MethodType, functools.partial))


def _write_bound(content: Any, target: Any, value: Any, note: Any) -> Any:
    if _is_bound(target):
        _written_items(content, _bound_to(target), value)
    return target


def namespace(value: Any) -> dict[str, Any]:
    """An object's attributes by name; a module's parameters, buffers and children are among them."""
    if not isinstance(value, nn.Module):
        slots = {name: getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name)}
        return slots | getattr(value, "__dict__", {})
    own: dict[str, Any] = {name: part for name, part in vars(value).items() if name not in MACHINERY}
    return own | {name: part for register in REGISTERS for name, part in getattr(value, register).items()}


def slots_of(kind: type) -> list[str]:
    """Attributes that the class keeps in slots."""
    names = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    flat = [name for group in names for name in ((group,) if isinstance(group, str) else group)]
    return [name for name in flat if name not in ("__dict__", "__weakref__")]


def _is_own_object(value: Any) -> bool:
    """A module, or an object of a class in Python that isn't the language's own and has nothing but attributes."""
    kind = type(value)
    if isinstance(value, nn.Module):
        return True
    if isinstance(value, type) or not (hasattr(value, "__dict__") or slots_of(kind)):
        return False
    return not any(_has_hidden_state(base) for base in kind.__mro__[:-1])


def _has_hidden_state(kind: type) -> bool:
    """Whether the class is a library's, or reduces itself: attributes may not be all that it has."""
    is_library = kind.__module__.partition(".")[0] in sys.stdlib_module_names or kind.__module__.startswith(FOREIGN)
    return is_library or not {"__reduce__", "__reduce_ex__"}.isdisjoint(vars(kind))


def _read_object(value: Any, code: Callable[[Any, str], Code]) -> dict[str, Code]:
    return {name: code(part, f".{name}") for name, part in namespace(value).items()}


def _write_object(content: Any, target: Any, value: Any, note: Any) -> Any:
    if not _is_own_object(target):
        return target
    note(target)
    before = namespace(target)
    made = {name: value(code, before.get(name, ABSENT)) for name, code in content.items()}
    changes = {name: part for name, part in made.items() if part is not ABSENT and part is not before.get(name, ABSENT)}
    if changes and _is_frozen(target):
        target = note(copy.copy(target))
    for name, part in changes.items():
        _assign(target, name, part)
    for name in before.keys() - content.keys():
        getattr(target, "__dict__", {}).pop(name, None)
    return target


def _is_frozen(value: Any) -> bool:
    """Whether others may rely on this very object never to change."""
    return bool(getattr(getattr(type(value), "__dataclass_params__", None), "frozen", False))


def _assign(owner: Any, name: str, value: Any) -> None:
    """Puts an attribute where the object keeps it, past whatever its class does on assignment."""
    registers = [vars(owner)[register] for register in REGISTERS] if isinstance(owner, nn.Module) else []
    register = next((register for register in registers if name in register), None)
    if register is not None:
        register[name] = value
    else:
        object.__setattr__(owner, name, value)


class _Fingerprint(pickle.Pickler):
    """What an object is now, apart from the network that it may refer to."""

    def __init__(self, file: io.BytesIO, known: Container[int]) -> None:
        super().__init__(file)
        self._known = known

    def persistent_id(self, value: Any) -> str | None:
        return type(value).__name__ if isinstance(value, nn.Module) or id(value) in self._known else None


def fingerprint(value: Any, known: Container[int]) -> Any:
    """A digest by which a change of the object shows, or the object itself; `known` are ids of the network's parts."""
    if type(value).__module__ == "itertools":
        return repr(value)
    file = io.BytesIO()
    try:
        if callable(value) or isinstance(value, types.ModuleType):
            return value
        _Fingerprint(file, known).dump(value)
    except Exception:  # noqa: BLE001 - a class decides itself how it is pickled, and may fail in any way
        return value
    return hashlib.sha256(file.getvalue()).hexdigest()


FORMS: tuple[Form, ...] = (
    Form(
        kind="growth",
        fits=lambda value: isinstance(value, GoesBy),
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
        read=_read_items,
        write=_write_list,
        mark=_kind_of_its_own,
    ),
    Form(
        kind="tuple",
        fits=lambda value: isinstance(value, tuple),
        read=_read_items,
        write=_write_tuple,
        mark=_kind_of_its_own,
    ),
    Form(
        kind="deque",
        fits=lambda value: type(value) is deque,
        read=lambda values, code: (values.maxlen, _read_items(values, code)),
        write=_write_deque,
    ),
    Form(
        kind="ordered dict",
        fits=lambda value: type(value) is OrderedDict and _has_plain_keys(value),
        read=_read_dict,
        write=_dict_writer(OrderedDict),
    ),
    Form(kind="dict", fits=_has_plain_keys, read=_read_dict, write=_dict_writer(dict), mark=_kind_of_its_own),
    Form(
        kind="set",
        fits=lambda value: type(value) is set and all(is_plain(member) for member in value),
        read=lambda values, code: list(values),
        write=_write_set,
    ),
    Form(
        kind="function",
        fits=_is_own_function,
        read=_read_function,
        write=_write_function,
        mark=lambda function: function.__code__,
    ),
    Form(
        kind="bound",
        fits=_is_bound,
        read=lambda value, code: _read_items(_bound_to(value), code),
        write=_write_bound,
        mark=type,
    ),
    Form(kind="object", fits=_is_own_object, read=_read_object, write=_write_object, mark=type),
    Form(
        kind="opaque",
        fits=lambda value: True,
        read=lambda value, code: None,
        write=lambda content, target, value, note: target,
        mark=lambda value: value,
    ),
)
