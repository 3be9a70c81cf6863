"""The comments of the protos, by message and field; the specification that other tests hold the code against."""

from __future__ import annotations

import re
from pathlib import Path

PROTOS = Path(__file__).resolve().parents[2] / "proto" / "esper" / "leyline" / "v1"
UNCONDITIONAL = re.compile(r"Required(\.|, at least one\.|, exactly one\.)")

_BLOCK = re.compile(r"(message|enum|oneof|service) (\w+) \{(\})?")
_FIELD = re.compile(r"(?:optional |repeated )?[\w.]+ (\w+) = \d+;")
_VALUE = re.compile(r"([A-Z]\w*) = \d+;(?:\s*//\s*(.+))?")
_RPC = re.compile(r"rpc (\w+)\(")


def comments() -> dict[str, dict[str, str]]:
    """Message -> field (an oneof counts as one) -> comment; the message's own comment stands under ""."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(PROTOS.glob("*.proto")):
        _read(path, found)
    return found


def _read(path: Path, found: dict[str, dict[str, str]]) -> None:
    stack: list[tuple[str, str]] = []
    pending: list[str] = []
    for line in (line.strip() for line in path.read_text(encoding="utf-8").splitlines()):
        if line.startswith("//"):
            pending.append(line[2:].strip())
            continue
        comment, pending = " ".join(pending), []
        if block := _BLOCK.match(line):
            kind, name, is_empty = block.groups()
            if kind == "oneof":
                found[stack[-1][1]][name] = comment
            else:
                found[name] = {"": comment}
            if not is_empty:
                stack.append((kind, name))
        elif line == "}":
            stack.pop()
        elif stack:
            _read_entry(line, comment, stack, found)


def _read_entry(line: str, comment: str, stack: list[tuple[str, str]], found: dict[str, dict[str, str]]) -> None:
    kind, name = stack[-1]
    if kind == "enum" and (value := _VALUE.match(line)):
        found[name][value[1]] = value[2] or comment
    elif kind == "service" and (rpc := _RPC.match(line)):
        found[name][rpc[1]] = comment
    elif kind in ("message", "oneof") and (field := _FIELD.match(line)):
        owner = name if kind == "message" else stack[-2][1]
        found[owner][field[1]] = comment
