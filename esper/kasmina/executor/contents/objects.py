"""How functions, methods and objects of one's own are read as plain content and given back what they held.

They are never made anew: what stands there is changed where it stands. A change of what can't be read shows in its
fingerprint.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Container, Iterator
from typing import Any

from torch import nn

from esper.kasmina.executor.contents.containers import ABSENT, Code, written_items

# What is machinery of every module rather than state of one.
MACHINERY = frozenset(vars(nn.Module())) - {"training"} | {"_compiled_call_impl"}
REGISTERS = ("_parameters", "_buffers", "_modules")
# Libraries whose functions and objects hold nothing of a network.
FOREIGN = ("esper.", "torch", "numpy")


class GoesBy:
    """Base of hooks that growth hangs on a host: they hold nothing of the host's."""


def is_own_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and not (value.__module__ or "").startswith(FOREIGN)


def read_function(function: Any, code: Callable[[Any, str], Code]) -> dict[str, Code]:
    return {name: code(cell.cell_contents, f"({name})") for name, cell in variables(function)}


def variables(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """What the function closes over, as far as it is assigned."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            _ = cell.cell_contents
        except ValueError:
            continue
        yield name, cell


def write_function(content: Any, target: Any, value: Any, note: Any) -> Any:
    if not isinstance(target, types.FunctionType):
        return target
    note(target)
    for name, cell in variables(target):
        if name in content:
            cell.cell_contents = value(content[name], cell.cell_contents)
    return target


def bound_to(value: Any) -> Any:
    """What a method or partial works on, as members that are put back where they stand."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return [value.__self__, getattr(value, "__func__", None)]


def is_bound(value: Any) -> bool:
    if isinstance(value, (types.BuiltinMethodType, types.MethodWrapperType)):
        return not isinstance(value.__self__, (type, types.ModuleType, type(None)))
    return isinstance(value, (types.MethodType, functools.partial))


def write_bound(content: Any, target: Any, value: Any, note: Any) -> Any:
    if is_bound(target):
        written_items(content, bound_to(target), value)
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


def is_own_object(value: Any) -> bool:
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


def read_object(value: Any, code: Callable[[Any, str], Code]) -> dict[str, Code]:
    return {name: code(part, f".{name}") for name, part in namespace(value).items()}


def write_object(content: Any, target: Any, value: Any, note: Any) -> Any:
    if not is_own_object(target):
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
