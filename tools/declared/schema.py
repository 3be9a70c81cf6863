"""What is declared: messages with their fields, and enum values; which of them a person reads or writes, and why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

import esper.leyline as leyline
from esper.cli.services.call import PAYLOADS
from esper.rpc.contract import SERVICES, methods

Field = tuple[str, str]
"""Message and field, by name."""

MESSAGES: dict[str, Descriptor] = {}
ENUMS: dict[str, EnumDescriptor] = {}
for _name in leyline.__all__:
    _descriptor = getattr(leyline, _name).DESCRIPTOR
    (MESSAGES if isinstance(_descriptor, Descriptor) else ENUMS)[_name] = _descriptor
FIELDS = {name: {field.name for field in found.fields} for name, found in MESSAGES.items()}
VALUES = {value.name for enum in ENUMS.values() for value in enum.values if value.number}

# Requests that the trainer and the services make by themselves.
TRAINERS = {"AdvanceRequest", "ControlRequest", "SubmitOutcomeRequest", "PublishTelemetryRequest"}
PATH = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")


# RPCs that are there for a person's question, or a foreign client's: how do things stand, what would be decided now. No
# program of ours asks them to act by the answer; the trainer has its streams.
SHOWING = ("GetStatus", "List", "Export", "Flush", "Evaluate")


def shown() -> set[str]:
    """Messages that a person reads with `esper call`: what such an RPC answers with, and no other one does.

    They stand in a service's own file. What also goes another way, as the state of a seed does, has to be read there.
    """
    every = [method for service in SERVICES for method in methods(service).values()]
    shown_by, others = (
        closure(each.response.DESCRIPTOR for each in every if each.name.startswith(SHOWING) == is_shown)
        for is_shown in (True, False)
    )
    return {name for name in shown_by - others if MESSAGES[name].file.name.endswith("_service.proto")}


def ordered() -> set[str]:
    """Messages that a person may write as JSON: what operators sign, and the requests that they call with."""
    given = {method.request.DESCRIPTOR for each in SERVICES for method in methods(each).values()}
    signed = closure(MESSAGES[name] for name in PAYLOADS.values())
    return signed | {each.name for each in given if each.name not in TRAINERS}


def closure(roots: Iterable[Descriptor]) -> set[str]:
    """The messages, and those in them."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        descriptor = todo.pop()
        if descriptor.name not in found and descriptor.name in FIELDS:
            found.add(descriptor.name)
            todo += [field.message_type for field in descriptor.fields if field.message_type is not None]
    return found


def on_path(message: str, path: str) -> Iterator[Field]:
    """The fields that a dotted path leads through, from this message on; none if it isn't one."""
    steps: list[Field] = []
    at: Descriptor | None = MESSAGES[message]
    for name in path.split("."):
        field: FieldDescriptor | None = at.fields_by_name.get(name) if at is not None else None
        if at is None or field is None:
            return
        steps.append((at.name, name))
        at = field.message_type
    yield from steps


def registered(root: Path) -> Iterator[tuple[str, str]]:
    """Constants of the registries that declare a metric or an event, and what it is called."""
    for path in sorted((root / "esper").glob("*/metrics.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
                (target,) = statement.targets
                kind = statement.value.func
                if isinstance(target, ast.Name) and isinstance(kind, ast.Name) and kind.id.endswith("Spec"):
                    yield target.id, ast.unparse(statement.value.args[0]).strip("'")
