"""The one validator of messages. It names every violation, not the first.

A message is valid if it has the fields that `required_fields` and `field_rules` ask for, if its enums are known, its
numbers in range and its times are times, and if the same holds for every message in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter, methodcaller
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from esper.core.clock import NS_PER_S
from esper.core.errors import ContractError
from esper.core.messages.field_rules import MAX_ALPHA_ENTRIES, RANGES, RULES, Rule
from esper.core.messages.required_fields import REQUIRED

# What a database's column and 64 bits of nanoseconds hold. Seeds are bit patterns, never stored or added to.
MAX_INTEGER = 2**63 - 1
MAX_SECONDS = MAX_INTEGER // NS_PER_S - 1
_UNSIGNED_64 = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)

_Check = Callable[[Any], object]
_Look = Callable[[Any, list[str]], None]


def require_valid(message: Message) -> None:
    """Raise ContractError with every violation, if there is any."""
    found = violations(message)
    if found:
        raise ContractError(message.DESCRIPTOR.name, found)


def violations(message: Message) -> list[str]:
    """What is wrong with a message, each with its path; empty if nothing is."""
    found: list[str] = []
    _look(message, found)
    return found


def submessages(message: Message) -> Iterator[tuple[str, Message]]:
    """The messages directly in `message`, with their field name and, where repeated, their index."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.is_repeated:
            yield from ((f"{field.name}[{index}]", child) for index, child in enumerate(value))
        else:
            yield field.name, value


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to look at in messages of one type, worked out once: every packet is checked, so it must cost little."""

    required: tuple[tuple[str, _Check], ...]
    rules: tuple[Rule, ...]
    ranges: tuple[tuple[str, bool, float, float], ...]
    integers: tuple[tuple[str, bool], ...]
    enums: tuple[tuple[str, bool, frozenset[int]], ...]
    children: tuple[tuple[str, bool], ...]
    check: _Look | None


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    name, fields = descriptor.name, descriptor.fields
    return _Plan(
        required=tuple((path, _presence(descriptor, path)) for path in REQUIRED.get(name, "").split()),
        rules=tuple(rule for rule in RULES if rule.message == name),
        ranges=tuple(
            (f.name, f.is_repeated, *RANGES[f"{name}.{f.name}"]) for f in fields if f"{name}.{f.name}" in RANGES
        ),
        integers=tuple(
            (f.name, f.is_repeated) for f in fields if f.type in _UNSIGNED_64 and not f.name.endswith("seed")
        ),
        enums=tuple(
            (f.name, f.is_repeated, frozenset(f.enum_type.values_by_number)) for f in fields if f.enum_type is not None
        ),
        children=tuple((f.name, f.is_repeated) for f in fields if f.message_type is not None),
        check=_CHECKS.get(descriptor.full_name),
    )


def _look(message: Any, found: list[str]) -> None:
    """Add what is wrong with `message`; paths are made only where something is wrong."""
    plan = _plan(message.DESCRIPTOR)
    for name, is_there in plan.required:
        if not is_there(message):
            found.append(f"{name} is required")
    if plan.rules:
        _look_at_rules(plan, message, found)
    if plan.ranges or plan.enums:
        _look_at_values(plan, message, found)
    if plan.integers:
        _look_at_integers(plan, message, found)
    if plan.check is not None:
        plan.check(message, found)
    if plan.children:
        _look_at_children(plan, message, found)


def _look_at_children(plan: _Plan, message: Any, found: list[str]) -> None:
    for name, is_repeated in plan.children:
        if is_repeated:
            for index, child in enumerate(getattr(message, name)):
                before = len(found)
                _look(child, found)
                if len(found) > before:
                    found[before:] = [f"{name}[{index}].{text}" for text in found[before:]]
        elif message.HasField(name):
            before = len(found)
            _look(getattr(message, name), found)
            if len(found) > before:
                found[before:] = [f"{name}.{text}" for text in found[before:]]


def _look_at_rules(plan: _Plan, message: Any, found: list[str]) -> None:
    for rule in plan.rules:
        if rule.when(message):
            missing = (name for name in rule.fields.split() if not is_present(message, name))
            found.extend(f"{name} is required {rule.condition}" for name in missing)


def _look_at_values(plan: _Plan, message: Any, found: list[str]) -> None:
    for name, is_repeated, low, high in plan.ranges:
        if is_repeated or message.HasField(name):
            for value in getattr(message, name) if is_repeated else (getattr(message, name),):
                if not (low <= value <= high and math.isfinite(value)):
                    found.append(f"{name} is {value:g}, expected {_range_in_words(low, high)}")
    for name, is_repeated, known in plan.enums:
        for number in getattr(message, name) if is_repeated else (getattr(message, name),):
            if number not in known:
                found.append(f"{name} has the unknown value {number}")


def _look_at_integers(plan: _Plan, message: Any, found: list[str]) -> None:
    for name, is_repeated in plan.integers:
        for number in getattr(message, name) if is_repeated else (getattr(message, name),):
            if number > MAX_INTEGER:
                found.append(f"{name} is {number}, expected at most {MAX_INTEGER}")


def is_present(message: Any, path: str) -> bool:
    """Whether a field, an oneof or a dotted path holds something: a zero enum or an empty text is nothing."""
    return bool(_presence(message.DESCRIPTOR, path)(message))


@cache
def _presence(descriptor: Descriptor, path: str) -> _Check:
    """What is true or false as `is_present` is, for one path in messages of one type."""
    name, _, rest = path.partition(".")
    if name in descriptor.oneofs_by_name:
        return lambda message: message.WhichOneof(name) is not None
    field = descriptor.fields_by_name[name]
    if rest:
        of_rest = _presence(field.message_type, rest)
        return lambda message: message.HasField(name) and of_rest(getattr(message, name))
    return methodcaller("HasField", name) if field.has_presence else attrgetter(name)


def _look_at_blend(blend: Any, found: list[str]) -> None:
    if len(blend.alpha_vec) > MAX_ALPHA_ENTRIES:
        found.append(f"alpha_vec has {len(blend.alpha_vec)} entries, at most {MAX_ALPHA_ENTRIES} are allowed")
    if blend.HasField("share_min") and blend.HasField("share_max") and blend.share_min > blend.share_max:
        found.append(f"share_min is {blend.share_min:g}, above share_max {blend.share_max:g}")


def _time_with(nanos: range) -> _Look:
    def look(moment: Any, found: list[str]) -> None:
        if abs(moment.seconds) > MAX_SECONDS:
            found.append(f"seconds is {moment.seconds}, expected {-MAX_SECONDS} to {MAX_SECONDS}")
        if moment.nanos not in nanos:
            found.append(f"nanos is {moment.nanos}, expected less than a second")

    return look


_CHECKS: Mapping[str, _Look] = {
    "esper.leyline.v1.BlendConfig": _look_at_blend,
    "esper.leyline.v1.BlendSettings": _look_at_blend,
    "google.protobuf.Timestamp": _time_with(range(1_000_000_000)),
    "google.protobuf.Duration": _time_with(range(-999_999_999, 1_000_000_000)),
}


def _range_in_words(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return "a finite number above 0" if low > 0 else "a finite number of at least 0"
    return f"{low:g} to {high:g}" if math.isfinite(low) else f"a finite number of at most {high:g}"
