"""The one place where networks are copied: a copy is whole and independent, or it is refused by name.

Like copy.deepcopy, but what hangs on a parameter comes along, functions refer to the copy of what they close over,
cached activations are copied detached, tensors that share memory go on sharing it, and locks are new ones.
"""

from __future__ import annotations

import copy
import copyreg
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from esper.core.errors import ConfigError
from esper.kasmina.executor.contents.storages import Storages, has_storage

T = TypeVar("T")

ATOMS: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, type, range, slice, type(Ellipsis), type(NotImplemented),
    property, types.ModuleType, types.CodeType, types.MethodDescriptorType, types.WrapperDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType, torch.dtype, torch.device, torch.layout,
    torch.memory_format, torch.Size, torch.jit.ScriptFunction,
)  # fmt: skip
# State of the compiler belongs to the process; a copied network is compiled anew.
COMPILER = ("torch._dynamo", "torch._inductor")
# Where a module keeps what is reached by name.
REGISTERS = frozenset({"_modules", "_parameters", "_buffers"})
FUNCTION_PARTS = ("__defaults__", "__kwdefaults__", "__dict__", "__qualname__", "__module__", "__doc__")
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
REMEDY = "make it a buffer, a plain value, or an object that copy.deepcopy takes; --grow never needs no copy"
LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}


def independent_copy(
    value: T, name: str = "", *, shared: Iterable[Any] = (), instead: Iterable[tuple[Any, Any]] = ()
) -> T:
    """A copy that shares no state with the original, but the objects of `shared`; pairs of `instead` are no copies.

    Raises ConfigError with the path, from `name`, of what resists.
    """
    copying = _Copying(name)
    copying.keep(shared)
    copying.put(instead)
    return cast(T, copying.copy(value))


class _Copying:
    """One copy in the making; what was copied once is the same object wherever it is met again."""

    def __init__(self, name: str) -> None:
        self._path = [name]
        self._copies: dict[int, Any] = {}
        self._originals: list[Any] = []
        self._storages = Storages()
        self._kinds: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
            (Tensor, self._tensor),
            (torch.jit.ScriptModule, self._script),
            (nn.Module, self._module),
            (torch.Generator, self._generator),
            (types.FunctionType, self._function),
            (types.MethodType, self._method),
            ((types.BuiltinFunctionType, types.MethodWrapperType), self._builtin),
            (weakref.ref, self._reference),
            (threading.Thread, self._refuse),
            (tuple(LOCKS), lambda lock: LOCKS[type(lock)]()),
        )

    def keep(self, shared: Iterable[Any]) -> None:
        """Let these stand for themselves wherever they are met."""
        for value in shared:
            self._remember(value, value)

    def put(self, instead: Iterable[tuple[Any, Any]]) -> None:
        """Let the second of each pair stand wherever the first is met."""
        for value, other in instead:
            self._remember(value, other)

    def copy(self, value: Any, part: str = "") -> Any:
        """The copy of a value that stands at `part` of what is being copied."""
        if issubclass(type(value), ATOMS) or _is_of_the_compiler(value):
            return value
        if id(value) in self._copies:
            return self._copies[id(value)]
        self._path.append(part)
        try:
            return self._remember(value, self._copied(value))
        except ConfigError:
            raise
        except Exception as error:  # a class decides itself how it is copied, and may fail in any way
            raise self._refusal(value, str(error).partition("\n")[0] or type(error).__name__) from error
        finally:
            self._path.pop()

    def _copied(self, value: Any) -> Any:
        kind = type(value)
        if kind in CONTAINERS:
            return CONTAINERS[kind](self, value)
        for kinds, make in self._kinds:
            if issubclass(type(value), kinds):
                return make(value)
        return self._object(value)

    def _remember(self, value: Any, copied: T) -> T:
        self._copies[id(value)] = copied
        self._originals.append(value)  # an id means an object only as long as it lives
        return copied

    def _refusal(self, value: Any, why: str) -> ConfigError:
        parts = [part for part in self._path if part and part.removeprefix(".") not in REGISTERS]
        path = "".join(parts).removeprefix(".") or "model"
        return ConfigError(path, type(value).__name__, f"can't be copied for a twin ({why}); {REMEDY}")

    def _refuse(self, value: Any) -> Any:
        raise self._refusal(value, "it is at work")

    def list_of(self, values: list[Any]) -> list[Any]:
        copied: list[Any] = self._remember(values, [])
        copied.extend(self.copy(value, f"[{index}]") for index, value in enumerate(values))
        return copied

    def tuple_of(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        copied = tuple(self.copy(value, f"[{index}]") for index, value in enumerate(values))
        # A tuple that holds itself, by way of a list, was made meanwhile.
        made = cast(tuple[Any, ...], self._copies.get(id(values), copied))
        return values if all(a is b for a, b in zip(values, made, strict=True)) else made

    def dict_of(self, values: dict[Any, Any]) -> dict[Any, Any]:
        copied: dict[Any, Any] = self._remember(values, {})
        for key, value in list(values.items()):
            copied[self.copy(key)] = self.copy(value, _label(key))
        return copied

    def set_of(self, values: set[Any]) -> set[Any]:
        return {self.copy(value) for value in values}

    def _object(self, value: Any) -> Any:
        """By the class's own way: __deepcopy__, else what pickle would do."""
        if hasattr(type(value), "__deepcopy__"):
            return value.__deepcopy__(self._copies)
        reductor = copyreg.dispatch_table.get(type(value))
        reduced = reductor(value) if reductor is not None else value.__reduce_ex__(4)
        return value if isinstance(reduced, str) else self._rebuilt(value, *reduced)

    def _rebuilt(
        self,
        value: Any,
        make: Callable[..., Any],
        arguments: tuple[Any, ...],
        state: Any = None,
        members: Iterable[Any] | None = None,
        pairs: Iterable[tuple[Any, Any]] | None = None,
        set_state: Callable[[Any, Any], Any] | None = None,
    ) -> Any:
        copied = self._remember(value, make(*(self.copy(argument) for argument in arguments)))
        if state is not None:
            state = self.copy(state)
            _set_state(copied, state) if set_state is None else set_state(copied, state)
        for index, member in enumerate(members or ()):
            copied.append(self.copy(member, f"[{index}]"))
        for key, member in pairs or ():
            copied[self.copy(key)] = self.copy(member, _label(key))
        return copied

    def _module(self, module: nn.Module) -> Any:
        self._storages.note(module)
        if parametrize.is_parametrized(module):
            # Its class forbids pickling, and its own __deepcopy__ would lose hooks on parameters.
            copied = self._remember(module, type(module).__new__(type(module)))
            copied.__dict__ = self.dict_of(module.__dict__)
            return copied
        if hasattr(type(module), "__deepcopy__"):
            for part in chain(
                module.named_children(), module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            ):
                self.copy(part[1], _label(part[0]))
        return self._object(module)

    def _script(self, module: torch.jit.ScriptModule) -> Any:
        """TorchScript copies itself; with gradients on, its parameters would be results of the original's."""
        with torch.no_grad():
            copied = module.__deepcopy__({})
        for mine, theirs in ((module.parameters(), copied.parameters()), (module.buffers(), copied.buffers())):
            for tensor, twin in zip(mine, theirs, strict=True):
                self._dressed(tensor, twin.requires_grad_(tensor.requires_grad))
        return copied

    def _tensor(self, tensor: Tensor) -> Tensor:
        if type(tensor) not in (Tensor, nn.Parameter) or not has_storage(tensor):
            return self._dressed(tensor, copy.deepcopy(tensor if tensor.is_leaf else tensor.detach(), self._copies))
        with torch.no_grad():
            data = self._storages.copy(tensor)
        if isinstance(tensor, nn.Parameter):
            return self._dressed(tensor, nn.Parameter(data, requires_grad=tensor.requires_grad))
        if not tensor.is_leaf:
            return data
        data.requires_grad_(tensor.requires_grad)
        data.grad = self.copy(tensor.grad, ".grad")
        return self._dressed(tensor, data)

    def _dressed(self, tensor: Tensor, copied: Tensor) -> Tensor:
        """Puts on the copy what hangs on the tensor: attributes and hooks."""
        self._remember(tensor, copied)
        if attributes := vars(tensor):
            vars(copied).update(self.dict_of(attributes))
        for name in TENSOR_HOOKS:
            if tensor.is_leaf and (hooks := getattr(tensor, name, None)):
                setattr(copied, name, self.copy(hooks, f".{name}"))
        return copied

    def _generator(self, generator: torch.Generator) -> torch.Generator:
        if generator is torch.default_generator or any(generator is other for other in torch.cuda.default_generators):
            return generator
        copied = torch.Generator(generator.device)
        copied.set_state(generator.get_state())
        return copied

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """The function over copies of what it holds; one that is found by its name holds nothing of the network."""
        if _is_global(function):
            return function
        cells = {name: self._cell(cell) for name, cell in _closure(function)}
        arguments = (function.__code__, function.__globals__, function.__name__, None, tuple(cells.values()))
        copied = self._remember(function, types.FunctionType(*arguments))
        for name, cell in _closure(function):
            self._fill(cell, cells[name], name)
        for name in FUNCTION_PARTS:
            setattr(copied, name, self._shared_at_worst(getattr(function, name), ""))
        return copied

    def _cell(self, cell: types.CellType) -> types.CellType:
        """The copy of a function's variable, empty at first: what it holds may hold the function."""
        return self._copies.get(id(cell)) or types.CellType()

    def _fill(self, cell: types.CellType, copied: types.CellType, name: str) -> None:
        if id(cell) in self._copies:
            return
        self._remember(cell, copied)
        with suppress(ValueError):  # a variable that isn't assigned yet
            copied.cell_contents = self._shared_at_worst(cell.cell_contents, f"({name})")

    def _shared_at_worst(self, content: Any, name: str) -> Any:
        """A function may log to an open file: what it closes over and can't be copied is shared, as deepcopy does."""
        known, kept = len(self._copies), len(self._originals)
        try:
            return self.copy(content, name)
        except ConfigError:
            for key in list(self._copies)[known:]:
                del self._copies[key]
            del self._originals[kept:]
            return content

    def _method(self, method: types.MethodType) -> types.MethodType:
        return types.MethodType(self.copy(method.__func__), self.copy(method.__self__))

    def _builtin(self, function: Any) -> Any:
        owner = function.__self__
        if owner is None or isinstance(owner, (type, types.ModuleType)):
            return function
        return getattr(self.copy(owner), function.__name__)

    def _reference(self, reference: Any) -> Any:
        target = reference()
        if isinstance(reference, weakref.WeakMethod):
            return self._weak_method(reference, target)
        return weakref.ref(self.copy(target)) if isinstance(target, (nn.Module, Tensor)) else reference

    def _weak_method(self, reference: Any, method: Any) -> Any:
        """Only what the network itself holds lives on, so the function is its class's unless it was copied before."""
        if method is None or not isinstance(method.__self__, nn.Module):
            return reference
        function = self._copies.get(id(method.__func__), method.__func__)
        return weakref.WeakMethod(types.MethodType(function, self.copy(method.__self__)))


CONTAINERS: dict[type, Callable[[_Copying, Any], Any]] = {
    list: _Copying.list_of,
    tuple: _Copying.tuple_of,
    dict: _Copying.dict_of,
    set: _Copying.set_of,
}


def _set_state(copied: Any, state: Any) -> None:
    """As pickle sets it: by the class's own way, else attributes and slots."""
    if hasattr(copied, "__setstate__"):
        copied.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        copied.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        setattr(copied, name, value)


def _label(key: Any) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    return f"[{key!r}]" if isinstance(key, (str, int, float)) else f"[{type(key).__name__}]"


def _is_of_the_compiler(value: Any) -> bool:
    return type(value).__module__.startswith(COMPILER) and not issubclass(type(value), nn.Module)


def _is_global(function: types.FunctionType) -> bool:
    """Whether the function is found in its module: such a one belongs to it, not to the network."""
    module = sys.modules.get(function.__module__ or "")
    found: Any = module
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function or (module is not None and any(value is function for value in vars(module).values()))


def _closure(function: types.FunctionType) -> list[tuple[str, types.CellType]]:
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
