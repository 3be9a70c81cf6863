"""Requests that nobody means: any message of a descriptor, complete where it must be, with values at every edge."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from esper.core.messages.required_fields import REQUIRED

F = FieldDescriptor
MAX_DEPTH = 5
TEXTS = ("", "run-1", "s1", "tamiyo", "\x1b[2J\n", "<script>", "ü" * 600, "a" * 70_000, "𝔘" * 3000)
UNSIGNED = (0, 1, 2, 7, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
SIGNED = (-(2**63), -(2**31), -1, 0, 1, 2**31 - 1, 253_402_300_799, 2**63 - 1)
REALS = (-1e308, -1.0, 0.0, 0.5, 1.0, 1e308, float("inf"), float("nan"))
BYTES = (b"", b"\xff\xff\xff", b"\x00" * 32)
EDGES: dict[int, tuple[Any, ...]] = {
    F.TYPE_STRING: TEXTS,
    F.TYPE_BYTES: BYTES,
    F.TYPE_BOOL: (True, False),
    F.TYPE_DOUBLE: REALS,
    F.TYPE_FLOAT: (0.0, 1.0, -1.0),
    F.TYPE_UINT64: UNSIGNED,
    F.TYPE_UINT32: tuple(number for number in UNSIGNED if number < 2**32),
    F.TYPE_INT64: SIGNED,
    F.TYPE_INT32: tuple(number for number in SIGNED if abs(number) < 2**31),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Message:
    """A message with every required field, and some of the others."""
    message = GetMessageClass(descriptor)()
    required = {path.partition(".")[0] for path in REQUIRED.get(descriptor.name, "").split()}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        is_required = field.name in required or (oneof is not None and oneof.name in required)
        if depth < MAX_DEPTH and (is_required or draw(st.integers(0, 3)) == 0):
            _set(draw, message, field, depth)
    return message


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None:
        child = draw(messages(field.message_type, depth + 1))
        if field.is_repeated:
            getattr(message, field.name).append(child)
        else:
            getattr(message, field.name).CopyFrom(child)
        return
    if field.enum_type is not None:
        value = draw(st.sampled_from([*field.enum_type.values_by_number, 9999]))
    else:
        value = draw(st.sampled_from(EDGES[field.type]))
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


@st.composite
def with_an_edge(draw: st.DrawFn, base: Message) -> Message:
    """A good message of which a single value was replaced, at any depth."""
    message = type(base)()
    message.CopyFrom(base)
    target = message
    while True:
        children = [
            child
            for field, value in target.ListFields()
            if field.message_type is not None
            for child in (value if field.is_repeated else [value])
        ]
        plain = [field for field in target.DESCRIPTOR.fields if field.message_type is None]
        if not children or (plain and draw(st.booleans())):
            break
        target = draw(st.sampled_from(children))
    if plain:
        _set(draw, target, draw(st.sampled_from(plain)), MAX_DEPTH)
    return message
