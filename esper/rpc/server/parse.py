"""From the bytes of a request to its message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from esper.core.errors import UnparsableMessage

M = TypeVar("M", bound=Message)


def parsed(message_class: type[M], raw: bytes) -> M:
    """The message in `raw`, or UnparsableMessage."""
    try:
        return message_class.FromString(raw)
    except DecodeError as error:
        violation = f"its {len(raw)} bytes are no serialized {message_class.DESCRIPTOR.full_name}"
        raise UnparsableMessage(message_class.DESCRIPTOR.name, [violation]) from error


async def parsed_each(message_class: type[M], raws: AsyncIterator[bytes]) -> AsyncIterator[M]:
    """The messages of a stream; the first that can't be parsed ends it."""
    async for raw in raws:
        yield parsed(message_class, raw)
