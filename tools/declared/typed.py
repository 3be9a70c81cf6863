"""Which messages each expression of a module may be, as mypy finds it."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypy import build
from mypy.find_sources import create_source_list
from mypy.nodes import Expression, MypyFile, Node
from mypy.options import Options
from mypy.types import Instance, Type, TypeVarType, UnionType, get_proper_type

from tools.declared.schema import FIELDS

Position = tuple[int, int, int | None, int | None]

# Attributes of mypy's nodes that lead out of the expression they are in.
LINKS = {
    "node",
    "info",
    "type",
    "unanalyzed_type",
    "names",
    "defn",
    "original_def",
    "unanalyzed_items",
    "metaclass_type",
}


@dataclass(frozen=True, slots=True)
class Module:
    """One module's source, and the messages of its expressions."""

    tree: ast.Module
    positions: dict[Position, list[str]]

    def messages(self, node: ast.expr) -> list[str]:
        return self.positions.get((node.lineno, node.col_offset, node.end_lineno, node.end_col_offset), [])


def typed_modules(paths: Iterable[Path]) -> dict[str, Module]:
    """The modules by name, generated ones left out. Foreign packages are skipped."""
    options = Options()
    options.export_types = options.preserve_asts = options.ignore_missing_imports = True
    options.incremental, options.follow_imports = False, "skip"
    result = build.build(create_source_list([str(path) for path in paths], options), options=options)
    found = {}
    for name, state in result.graph.items():
        is_own = not name.startswith("esper.leyline") and state.path is not None and state.path.endswith(".py")
        if is_own and state.tree is not None and state.path is not None:
            source = Path(state.path).read_text(encoding="utf-8")
            found[name] = Module(ast.parse(source), _positions(state.tree, result.types))
    return found


def _positions(tree: MypyFile, known: dict[Expression, Type]) -> dict[Position, list[str]]:
    positions: dict[Position, list[str]] = {}
    for expression in _expressions(tree):
        messages = list(_messages_of(known.get(expression)))
        if messages:
            place = expression.line, expression.column, expression.end_line, expression.end_column
            positions[place] = messages
    return positions


def _messages_of(found: Type | None) -> Iterator[str]:
    proper = None if found is None else get_proper_type(found)
    if (
        isinstance(proper, Instance)
        and proper.type.fullname.startswith("esper.leyline.")
        and proper.type.name in FIELDS
    ):
        yield proper.type.name
    elif isinstance(proper, UnionType):
        for item in proper.items:
            yield from _messages_of(item)
    elif isinstance(proper, TypeVarType):
        yield from _messages_of(proper.upper_bound)


def _expressions(tree: MypyFile) -> Iterator[Expression]:
    """Every expression of a module. mypy's own visitors are compiled and can't be given methods."""
    seen: set[int] = set()
    todo: list[Any] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, list | tuple):
            todo += node
            continue
        if not isinstance(node, Node) or (isinstance(node, MypyFile) and node is not tree) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Expression):
            yield node
        todo += [_attribute(node, name) for name in _attributes(type(node))]


def _attribute(node: Node, name: str) -> Any:
    try:
        return getattr(node, name)
    except (AttributeError, AssertionError):  # not set
        return None


def _attributes(kind: type, known: dict[type, list[str]] = {}) -> list[str]:  # noqa: B006 - a cache
    slots = types.GetSetDescriptorType | types.MemberDescriptorType
    if kind not in known:
        owners = kind.__mro__
        known[kind] = [n for owner in owners for n, d in vars(owner).items() if isinstance(d, slots) and n not in LINKS]
    return known[kind]
