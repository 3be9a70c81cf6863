"""Takes the uses of messages out of modules.

`packet.step` is a use of SystemStatePacket.step and of no other step: expressions have the types that mypy finds. A
field that is looked up by name, as getattr(metrics, name), is used where the name can come from: the strings of the
function around it, of the constants that are named there, and of the calls of that function. A string anywhere else, or
a keyword of another function, is no use.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tools.declared.schema import ENUMS, FIELDS, MESSAGES, PATH, VALUES, Field, on_path
from tools.declared.typed import Module

Function = ast.FunctionDef | ast.AsyncFunctionDef
WRITERS = {"append", "extend", "add", "insert", "CopyFrom", "MergeFrom", "SetInParent", "FromNanoseconds"}
# Of messages: they ask for one field, which is named.
ASKS = {"HasField", "WhichOneof"}


@dataclass(kw_only=True)
class Place:
    """A function of the outermost kind, or a module's own statements: where names and messages meet."""

    name: str
    strings: set[str] = field(default_factory=set)
    keywords: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    """Other names that are used in it: its constants among them."""
    reads: set[str] = field(default_factory=set)
    """Messages of which a field is looked up by name."""
    writes: set[str] = field(default_factory=set)
    reads_given: bool = False
    """Whether a field of something untyped is looked up by name: of what the callers give."""
    takes: set[str] = field(default_factory=set)
    """Names in the types of what it is given."""
    gives: set[str] = field(default_factory=set)
    """Names in the type of what it returns."""
    parses: bool = False
    """Whether it finds an enum's value by its name."""
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a function by its name, with what it is given."""

    function: str
    messages: frozenset[str]
    strings: frozenset[str]
    keywords: frozenset[str]
    names: frozenset[str]


class Uses:
    """Who uses what, as far as the source tells."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.read: set[Field] = set()
        self.written: set[Field] = set()
        self.produced: set[str] = set()
        self.names: defaultdict[str, int] = defaultdict(int)
        places: list[Place] = []
        constants: Constants = {}
        for module in modules:
            reader = _Reader(self, module)
            reader.visit(module.tree)
            places += reader.places
            for name, value in reader.constants:
                strings, names = constants.setdefault(name, (set(), set()))
                strings |= set(_strings(value))
                names |= _names(value)
        self._look_up(places, constants)

    def _look_up(self, places: list[Place], constants: Constants) -> None:
        """The uses by name."""
        callers = defaultdict[str, list[tuple[Place, Call]]](list)
        for place in places:
            for call in place.calls:
                callers[call.function].append((place, call))
        for place in places:
            calls = callers[place.name] if place.name else []
            if place.parses:
                named = {name for _, call in calls for name in call.names} | place.names
                self.produced |= {value for name in named & ENUMS.keys() for value in ENUMS[name].values_by_name}
            if place.reads or place.writes:
                told = place.strings | _of(constants, place.names)
                told |= {string for caller, _ in calls for string in caller.strings | _of(constants, caller.names)}
                self.read |= {step for name in place.reads for path in told for step in on_path(name, path)}
                given = told | place.keywords | {keyword for _, call in calls for keyword in call.keywords}
                for maker in places:
                    # What a function gives under a name of its own, another takes under it.
                    if maker.gives & place.takes & constants.keys():
                        given |= maker.keywords
                self.written |= {(name, each) for name in place.writes for each in FIELDS[name] & given}
            if place.reads_given:
                self._look_up_given(place, [call for _, call in calls], constants)

    def _look_up_given(self, place: Place, calls: list[Call], constants: Constants) -> None:
        own = place.strings | _of(constants, place.names)
        for call in calls:
            told = own | call.strings | _of(constants, call.names)
            self.read |= {step for name in call.messages for path in told for step in on_path(name, path)}


Constants = dict[str, tuple[set[str], set[str]]]
"""Of a module's constant its strings, and the names in it."""


def _of(constants: Constants, names: Iterable[str]) -> set[str]:
    """Strings of the constants, and of those that they are made of."""
    found: set[str] = set()
    todo, seen = set(names) & constants.keys(), set[str]()
    while todo:
        seen |= todo
        strings, inner = (set().union(*(constants[name][part] for name in todo)) for part in (0, 1))
        found |= strings
        todo = (inner & constants.keys()) - seen
    return found


class _Reader(ast.NodeVisitor):
    """One module."""

    def __init__(self, uses: Uses, module: Module) -> None:
        self._uses, self._messages = uses, module.messages
        self._comparing, self._depth = 0, 0
        self._place = Place(name="")
        self.places = [self._place]
        self.constants: list[tuple[str, ast.expr]] = []

    def visit_FunctionDef(self, node: Function) -> None:
        outer = self._place
        if not self._depth:
            arguments = node.args
            taken = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            takes = {name for each in taken if each.annotation is not None for name in _names(each.annotation)}
            gives = set() if node.returns is None else _names(node.returns)
            self._place = Place(name=self._own(node.name), takes=takes, gives=gives)
            self.places.append(self._place)
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        self._place = outer

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast names it

    def _own(self, function: str) -> str:
        """A private function is its module's own, whatever others are called."""
        return f"{id(self)} {function}" if function.startswith("_") else function

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and PATH.fullmatch(node.value):
            self._place.strings.add(node.value)

    # Writing.

    def visit_Assign(self, node: ast.Assign) -> None:
        if not self._depth:
            self.constants += [(each.id, node.value) for each in node.targets if isinstance(each, ast.Name)]
        for target in node.targets:
            self._write(target)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            if not self._depth and isinstance(node.target, ast.Name):
                self.constants.append((node.target.id, node.value))
            self._write(node.target)
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._write(node.target)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._write(target)

    def _write(self, node: ast.expr) -> None:
        """The place that is assigned to, and the messages that it is in."""
        if isinstance(node, ast.Tuple | ast.List):
            for each in node.elts:
                self._write(each)
        elif isinstance(node, ast.Starred):
            self._write(node.value)
        elif isinstance(node, ast.Subscript):
            self._write(node.value)
            self.visit(node.slice)
        elif isinstance(node, ast.Attribute):
            self._uses.written |= {(name, node.attr) for name in self._messages(node.value)}
            self._write(node.value)
        elif not isinstance(node, ast.Name):
            self.visit(node)

    # Calling.

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        if name in FIELDS:
            self._uses.written |= {(name, keyword) for keyword in keywords}
            if len(keywords) < len(node.keywords):
                self._place.writes.add(name)
        elif name in ("getattr", "setattr") and len(values) > 1:
            self._by_name(values[0], values[1], is_write=name == "setattr")
        elif name in ASKS and isinstance(function, ast.Attribute):
            self._by_name(function.value, values[0], is_write=False)
        elif name == "add":
            self._uses.written |= {(message, keyword) for message in self._messages(node) for keyword in keywords}
        elif name == "Value":
            self._place.parses = True
        else:
            self._called(name, values, keywords)
        if isinstance(function, ast.Attribute) and function.attr in WRITERS:
            self._write(function.value)
            for value in values:
                self.visit(value)
            return
        self.generic_visit(node)

    def _by_name(self, owner: ast.expr, name: ast.expr, *, is_write: bool) -> None:
        messages = self._messages(owner)
        if isinstance(name, ast.Constant):
            for message in messages:
                found = {(message, each) for each in _named(message, str(name.value))}
                (self._uses.written if is_write else self._uses.read).update(found)
        elif messages:
            (self._place.writes if is_write else self._place.reads).update(messages)
        elif not is_write:
            self._place.reads_given = True

    def _called(self, name: str, values: list[ast.expr], keywords: set[str]) -> None:
        self._place.keywords |= keywords
        self._place.calls.append(
            Call(
                function=self._own(name),
                messages=frozenset(message for value in values for message in self._messages(value)),
                strings=frozenset(string for value in values for string in _strings(value)),
                keywords=frozenset(keywords),
                names=frozenset(name for value in values for name in _names(value)),
            )
        )

    # Reading.

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._uses.read |= {(name, node.attr) for name in self._messages(node.value)}
        self._value(node.attr)
        # A table over all values of an enum, by their names.
        self._place.parses |= (
            node.attr == "values" and isinstance(node.value, ast.Attribute) and node.value.attr == "DESCRIPTOR"
        )
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._value(node.id)

    def _value(self, name: str) -> None:
        self._uses.names[name] += 1
        self._place.names.add(name)
        if name in VALUES and not self._comparing:
            self._uses.produced.add(name)

    def _compared(self, node: ast.AST) -> None:
        self._comparing += 1
        self.generic_visit(node)
        self._comparing -= 1

    visit_Compare = visit_Set = _compared  # noqa: N815 - the same

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                self._place.keywords.add(key.value)
            if key is not None:
                # A module's table is looked up by its keys; what a function makes it gives on.
                self._comparing += not self._depth
                self.visit(key)
                self._comparing -= not self._depth
            self.visit(value)


def _strings(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and PATH.fullmatch(each.value):
            yield each.value


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _named(message: str, name: str) -> Iterator[str]:
    """A field, or those of a oneof."""
    oneof = MESSAGES[message].oneofs_by_name.get(name)
    yield from (each.name for each in oneof.fields) if oneof is not None else (name,)
