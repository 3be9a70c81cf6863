"""What a network holds beside its parameters and persistent buffers: read as plain content, and put back.

Attributes, containers, other buffers, generators, objects of one's own and the variables of hooks. What has no plain
form (a lock, a file) stays where it is; `losses` tells what a network built anew could not be given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from esper.kasmina.executor.contents.clone import TENSOR_HOOKS
from esper.kasmina.executor.contents.containers import ABSENT, COMMON, PLAIN, Code, is_plain
from esper.kasmina.executor.contents.forms import FORMS, Form
from esper.kasmina.executor.contents.objects import MACHINERY, GoesBy, fingerprint

TENSORS = ("_parameters", "_buffers")
MODULE_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
BY_KIND = {form.kind: form for form in FORMS}

Tree = dict[str, dict[str, Code]]


class Marks(dict[str, Any]):
    """What has to be there already, by path; a copy of the network comes with marks of its own objects."""

    def __deepcopy__(self, copies: dict[int, Any]) -> Marks:
        return Marks({path: copies.get(id(mark), mark) for path, mark in self.items()})

    def renew(self, now: Marks, *, lost: Collection[str]) -> None:
        """Takes a copy's own marks, also of what its classes made anew; what the original had lost stays lost."""
        self.update(now)
        for path in lost:
            self.pop(path, None)


@dataclass(frozen=True, slots=True)
class Held:
    """What one network held at one moment: a tree for a file, and marks of what a file can't hold."""

    tree: Tree
    marks: Marks

    def losses(self, start: Marks) -> list[str]:
        """Paths of what can't be given to a network with the marks of `start`."""
        return [path for path, mark in self.marks.items() if not _is_same(mark, start.get(path, ABSENT))]


def held(model: nn.Module) -> Held:
    """What the network holds now, tensors copied."""
    reader = _Reader({id(value): name for name, value in _named(model)}, keeps_originals=False)
    return Held(reader.tree(model), reader.marks)


class Remembered:
    """What modules hold now, to be put back into the same ones: objects stay what they are, contents come back.

    Side passes are many, and most networks hold nothing but plain values: those are only noted.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        kept = [module for module in modules if keeps_attributes(module)]
        own = [vars(module) for module in kept]
        self._registers = [
            (module, type(module), names, dict(names)) for module in kept for names in _registers_of(vars(module))
        ]
        values = [
            value
            for attributes in own
            for name, value in attributes.items()
            if name not in MACHINERY and not is_plain(value)
        ]
        values += [hook for attributes in own for hook in _hooks_of(attributes.__getitem__, MODULE_HOOKS)]
        for parameter in (parameter for attributes in own for parameter in attributes["_parameters"].values()):
            if parameter is not None and parameter.is_leaf:
                values += _hooks_of(partial(getattr, parameter), TENSOR_HOOKS)
        self._codes = _Reader(_ids(modules), keeps_originals=True).codes(values) if values else []

    def put_back(self) -> None:
        """Makes the modules hold what they held."""
        for module, kind, names, before in self._registers:
            # A lazy module that has just learnt its sizes is another class now, and stays that.
            if type(module) is not kind:
                continue
            if names.keys() != before.keys():
                for name in names.keys() - before.keys():
                    del names[name]
            names.update(before)
        writer = _Writer({})
        for code in self._codes:
            writer.value(code, ABSENT)


def _ids(modules: list[nn.Module]) -> dict[int, str]:
    """Of the modules and their own tensors: they are put back by others, or never moved."""
    tensors = (vars(module)[name].values() for module in modules if keeps_attributes(module) for name in TENSORS)
    return {id(value): "" for value in (*modules, *chain.from_iterable(tensors))}


def _registers_of(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """A module's attributes, and where torch keeps its parameters, buffers, children and hooks."""
    return [
        attributes,
        *(part for name, part in attributes.items() if name in MACHINERY and isinstance(part, dict)),
    ]


def put_back(model: nn.Module, tree: Tree) -> None:
    """Makes the network hold what it, or another of its kind, held."""
    writer = _Writer(dict(_named(model)))
    for part in _parts(model, tree):
        writer.write(part, tree.get(part.key, {}))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One namespace of a network; an open one may gain and lose names."""

    key: str
    path: str
    values: dict[str, Any]
    register: dict[str, Any]
    is_open: bool = False


class _Reader:
    def __init__(self, names: Mapping[int, str], *, keeps_originals: bool) -> None:
        self.marks = Marks()
        self._keeps_originals = keeps_originals
        self._names = names
        self._numbers: dict[int, int] = {}
        self._met: list[Any] = []

    def tree(self, model: nn.Module) -> Tree:
        return {
            part.key: {name: self._code(value, f"{part.path}.{name}") for name, value in part.values.items()}
            for part in _parts(model)
            if part.values or part.is_open
        }

    def codes(self, values: list[Any]) -> list[Code]:
        return [self._code(value, "") for value in values]

    def _code(self, value: Any, path: str) -> Code:
        if type(value) in PLAIN:
            return "value", 0, value, None
        if (name := self._names.get(id(value))) is not None:
            return "named", 0, name, value if self._keeps_originals else None
        if (number := self._numbers.get(id(value))) is not None:
            return "again", number, None, None
        form = _form_of(value)
        if self._keeps_originals and (form.kind == "opaque" or (form.kind == "tensor" and not value.is_leaf)):
            return "value", 0, value, None
        self._met.append(value)  # an id means an object only as long as it lives
        number = self._numbers[id(value)] = len(self._met)
        if not self._keeps_originals:
            self._mark(form, value, path.removeprefix("."))
        content = form.read(value, lambda part, name: self._code(part, path + name))
        return form.kind, number, content, value if self._keeps_originals else None

    def _mark(self, form: Form, value: Any, path: str) -> None:
        if form.kind == "opaque":
            self.marks[path] = fingerprint(value, self._names)
        elif form.mark is not None and (mark := form.mark(value)) is not COMMON:
            self.marks[path] = mark


class _Writer:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[int, Any] = {}

    def write(self, part: _Part, codes: Mapping[str, Code]) -> None:
        for name, code in codes.items():
            current = part.values.get(name, ABSENT)
            value = self.value(code, current)
            if value is not current and value is not ABSENT:
                part.register[name] = value
        if part.is_open:
            for name in part.values.keys() - codes.keys():
                del part.register[name]

    def value(self, code: Code, current: Any) -> Any:
        kind, number, content, original = code
        if kind == "value":
            return content
        if kind == "named":
            return self._named.get(content, current) if original is None else original
        if kind == "again":
            return self._made.get(number, current)

        def note(value: Any) -> Any:
            self._made[number] = value
            return value

        target = current if original is None else original
        return note(BY_KIND[kind].write(content, target, self.value, note))


def _form_of(value: Any) -> Form:
    try:
        return next(form for form in FORMS if form.fits(value))
    except Exception:  # noqa: BLE001 - an object may answer in any way when it is asked what it is
        return BY_KIND["opaque"]


def _named(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules, parameters and persistent buffers: they are saved by name, or built."""
    for path, module in model.named_modules():
        yield f"module {path}", module
        prefix = f"{path}." if path else ""
        if not keeps_attributes(module):
            for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
                yield prefix + name, tensor
            continue
        passing = module._non_persistent_buffers_set
        for register in (module._parameters, module._buffers):
            for name, value in register.items():
                if value is not None and name not in passing:
                    yield prefix + name, value


def keeps_attributes(module: nn.Module) -> bool:
    """Whether the module's state stands in its Python object; TorchScript's is elsewhere, its tensors apart."""
    return not isinstance(module, torch.jit.ScriptModule)


def _parts(model: nn.Module, tree: Tree | None = None) -> Iterator[_Part]:
    """Buffers first, so that whoever mentions one mentions it again; with a tree those alone that it has a say in."""
    modules = [(path, module) for path, module in model.named_modules() if keeps_attributes(module)]
    for path, module in modules:
        if tree is None or f"buffers of {path}" in tree:
            register = module._buffers
            values = {name: register[name] for name in sorted(module._non_persistent_buffers_set & register.keys())}
            yield _Part(key=f"buffers of {path}", path=path, values=values, register=register)
    for path, module in modules:
        register = vars(module)
        values = {name: value for name, value in register.items() if name not in MACHINERY}
        yield _Part(key=f"attributes of {path}", path=path, values=values, register=register, is_open=True)
        if tree is None or f"hooks of {path}" in tree:
            yield _hooks(path, module, MODULE_HOOKS)
    for name, parameter in model.named_parameters():
        register = vars(parameter)
        if tree is None or register or tree.get(f"attributes of {name}"):
            values = dict(register)
            yield _Part(key=f"attributes of {name}", path=name, values=values, register=register, is_open=True)
        if tree is None or f"hooks of {name}" in tree:
            yield _hooks(name, parameter, TENSOR_HOOKS if parameter.is_leaf else ())


def _hooks(path: str, owner: Any, kinds: tuple[str, ...]) -> _Part:
    """Hooks by their order: their numbers are the process's."""
    get = partial(getattr, owner)
    kinds = tuple(kind for kind in kinds if get(kind))
    values = {f"{kind.strip('_')}[{i}]": hook for kind in kinds for i, hook in enumerate(_hooks_of(get, (kind,)))}
    return _Part(key=f"hooks of {path}", path=path, values=values, register={})


def _hooks_of(get: Callable[[str], Any], kinds: tuple[str, ...]) -> list[Any]:
    """Hooks that aren't growth's own."""
    groups = [hooks for kind in kinds if (hooks := get(kind))]
    return [hook for hooks in groups for hook in hooks.values() if not isinstance(hook, GoesBy)]


def _is_same(mark: Any, before: Any) -> bool:
    return mark is before or (type(mark) is type(before) and isinstance(mark, str) and mark == before)
