"""A request as it is given on the command line: JSON, a file with it, or standard input; read as a message."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from google.protobuf import json_format
from google.protobuf.message import Message

import esper.leyline as leyline
from esper.core.errors import ConfigError

HOW = "JSON, a file with it as FILE or @FILE, or - for standard input"
# The second is grpcurl's word, the third buf's.
_STDIN = ("-", "@", "@-")


def texts(given: str, *, is_stream: bool = False) -> Iterator[str]:
    """What was given, read when it is asked for: one text, or a line for each message of a stream."""
    if given.lstrip().startswith("{"):
        yield given
        return
    name = given.removeprefix("@")
    try:
        if given in _STDIN:
            yield from _read(sys.stdin, is_stream=is_stream)
        else:
            with open(name, encoding="utf-8-sig") as file:  # editors may begin it with a mark
                yield from _read(file, is_stream=is_stream)
    except UnicodeDecodeError as error:
        raise ConfigError("request", given, "it holds no text; JSON in UTF-8 is read") from error
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError("request", given, f"is no JSON object, and no file ({what}); give {HOW}") from error


def parse(type_name: str, text: str) -> Message:
    """The message that `text` describes; an unknown field is an error."""
    message: Message = getattr(leyline, type_name)()
    if not text.lstrip().startswith("{"):  # an empty list would pass for an empty message
        what = f"it is no object: {text.strip()[:40]!r}" if text.strip() else "it is empty"
        raise ConfigError("request", type_name, f"the JSON doesn't describe one: {what}; give {{...}}")
    try:
        return json_format.Parse(text, message)
    except json_format.ParseError as error:
        why = str(error).splitlines()[0]
        raise ConfigError("request", type_name, f"the JSON doesn't describe one: {why}") from error


def _read(stream: Iterator[str], *, is_stream: bool) -> Iterator[str]:
    return (line for line in stream if line.strip()) if is_stream else iter(["".join(stream)])
