"""The one validator of messages. It names every violation, not the first.

A message is valid if it has the fields that `required_fields` and `field_rules` ask for, if its enums are known, its
numbers in range and its times are times, and if the same holds for every message in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from esper.core.errors import ContractError
from esper.core.field_rules import MAX_ALPHA_ENTRIES, RANGES, RULES, Rule
from esper.core.required_fields import REQUIRED

_NANOS = {
    "google.protobuf.Timestamp": range(1_000_000_000),
    "google.protobuf.Duration": range(-999_999_999, 1_000_000_000),
}


def require_valid(message: Message) -> None:
    """Raise ContractError with every violation, if there is any."""
    found = violations(message)
    if found:
        raise ContractError(message.DESCRIPTOR.name, found)


def violations(message: Message) -> list[str]:
    """What is wrong with a message, each with its path; empty if nothing is."""
    return list(_violations(message, ""))


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
    """What to look at in messages of one type, worked out once."""

    required: tuple[str, ...]
    rules: tuple[Rule, ...]
    ranges: tuple[tuple[str, tuple[float, float]], ...]
    enums: tuple[FieldDescriptor, ...]


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    name = descriptor.name
    return _Plan(
        required=tuple(REQUIRED.get(name, "").split()),
        rules=tuple(rule for rule in RULES if rule.message == name),
        ranges=tuple((f.name, RANGES[f"{name}.{f.name}"]) for f in descriptor.fields if f"{name}.{f.name}" in RANGES),
        enums=tuple(field for field in descriptor.fields if field.enum_type is not None),
    )


def _violations(message: Message, path: str) -> Iterator[str]:
    if message.DESCRIPTOR.file.package == "google.protobuf":
        yield from _time_violations(message, path)
        return
    prefix = f"{path}." if path else ""
    plan = _plan(message.DESCRIPTOR)
    yield from (f"{prefix}{name} is required" for name in plan.required if not is_present(message, name))
    for rule in plan.rules:
        if rule.when(message):
            missing = (name for name in rule.fields.split() if not is_present(message, name))
            yield from (f"{prefix}{name} is required {rule.condition}" for name in missing)
    for name, (low, high) in plan.ranges:
        for value in _numbers(message, name):
            if not (low <= value <= high and math.isfinite(value)):
                yield f"{prefix}{name} is {value:g}, expected {_range_in_words(low, high)}"
    for field in plan.enums:
        yield from (f"{prefix}{field.name} has the unknown value {number}" for number in _unknown(message, field))
    if message.DESCRIPTOR.name == "BlendConfig":
        yield from _blend_violations(message, prefix)
    for name, child in submessages(message):
        yield from _violations(child, prefix + name)


def is_present(message: Any, path: str) -> bool:
    """Whether a field, an oneof or a dotted path holds something: a zero enum or an empty text is nothing."""
    name, _, rest = path.partition(".")
    if name in message.DESCRIPTOR.oneofs_by_name:
        return message.WhichOneof(name) is not None
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not message.HasField(name):
        return False
    value = getattr(message, name)
    if rest:
        return is_present(value, rest)
    return field.has_presence or bool(value)


def _numbers(message: Any, name: str) -> tuple[float, ...]:
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        return tuple(getattr(message, name))
    return (getattr(message, name),) if message.HasField(name) else ()


def _unknown(message: Any, field: FieldDescriptor) -> list[int]:
    value = getattr(message, field.name)
    numbers = list(value) if field.is_repeated else [value]
    known = field.enum_type.values_by_number if field.enum_type is not None else {}
    return [number for number in numbers if number not in known]


def _blend_violations(blend: Any, prefix: str) -> Iterator[str]:
    if len(blend.alpha_vec) > MAX_ALPHA_ENTRIES:
        yield f"{prefix}alpha_vec has {len(blend.alpha_vec)} entries, at most {MAX_ALPHA_ENTRIES} are allowed"
    if blend.HasField("share_min") and blend.HasField("share_max") and blend.share_min > blend.share_max:
        yield f"{prefix}share_min is {blend.share_min:g}, above share_max {blend.share_max:g}"


def _time_violations(moment: Any, path: str) -> Iterator[str]:
    if moment.nanos not in _NANOS[moment.DESCRIPTOR.full_name]:
        yield f"{path}.nanos is {moment.nanos}, expected less than a second"


def _range_in_words(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return "a finite number above 0" if low > 0 else "a finite number of at least 0"
    return f"{low:g} to {high:g}" if math.isfinite(low) else f"a finite number of at most {high:g}"
