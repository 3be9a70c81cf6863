"""What the usual loaders change without a word before anything is signed: each cell of the table in docs/clients.md."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from esper import leyline as pb
from tests.clients.languages import PROTO, ROOT, loaders

KEPT, CHANGED, REFUSED = "kept", "**changed**", "refused"
GUIDE = "proto-loader as in gRPC's guide"
LOADERS = ("proto-loader", GUIDE, "protobufjs", "ts-proto", "protobuf-es", "Python")
JSON, OBJECT, AGAIN = "json", "object", "hex"
LEVEL = "EMERGENCY_LEVEL_L4_HALT"
NANOS = "2026-01-31T12:00:00.123456789Z"
MILLIS = "2026-01-31T12:00:00.123Z"
WIDE = 2**53 + 1

pytestmark = [pytest.mark.slow, pytest.mark.node]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trap:
    """Something given to a loader: JSON, an object of its own kind, or bytes that are read and written again."""

    kind: str
    given: Any
    meant: Message | None
    """None: no message is meant by it, and only a refusal is right."""
    type_name: str = "AdaptationCommand"

    @property
    def right(self) -> str | None:
        if self.kind == AGAIN:
            return str(self.given)
        return None if self.meant is None else self.meant.SerializeToString(deterministic=True).hex()

    def case(self, loader: str) -> dict[str, str]:
        # Times are asked about under the key that each loader knows; keys have traps of their own.
        given = _snaked(self.given) if loader == GUIDE and self.type_name == "CommandSecurity" else self.given
        text = given if self.kind == AGAIN else json.dumps(given)
        return {"loader": loader, "type": self.type_name, self.kind: text}


def _issued_at(text: str) -> pb.CommandSecurity:
    security = pb.CommandSecurity()
    security.issued_at.FromJsonString(text)
    return security


def _emergency() -> pb.AdaptationCommand:
    return pb.AdaptationCommand(emergency=pb.EmergencyOrder(level=LEVEL))


def _written(message: Message) -> str:
    return message.SerializeToString(deterministic=True).hex()


NAMED = pb.AdaptationCommand(command_id="c")
STEPPED = pb.AdaptationCommand(step=WIDE)
TRAPS = {
    "keys as in the .proto, `command_id`": Trap(kind=JSON, given={"command_id": "c"}, meant=NAMED),
    "keys in lowerCamelCase, `commandId`": Trap(kind=JSON, given={"commandId": "c"}, meant=NAMED),
    "a key that no field has": Trap(kind=JSON, given={"pauze": {}}, meant=None),
    "a name that the enum doesn't have": Trap(kind=JSON, given={"emergency": {"level": "L9"}}, meant=None),
    "an enum's name in an object": Trap(kind=OBJECT, given={"emergency": {"level": LEVEL}}, meant=_emergency()),
    "a time as text, with nanoseconds": Trap(
        kind=JSON, given={"issuedAt": NANOS}, meant=_issued_at(NANOS), type_name="CommandSecurity"
    ),
    "a `Date` for a Timestamp": Trap(
        kind=OBJECT, given={"issuedAt": MILLIS}, meant=_issued_at(MILLIS), type_name="CommandSecurity"
    ),
    "a number beyond 2^53": Trap(kind=JSON, given={"step": WIDE}, meant=STEPPED),
    "the same number as text": Trap(kind=JSON, given={"step": str(WIDE)}, meant=STEPPED),
    "a word for a number": Trap(kind=JSON, given={"step": "many"}, meant=None),
    "two members of a oneof": Trap(kind=JSON, given={"pause": {}, "prune": {}}, meant=None),
    "read and written again: nanoseconds": Trap(
        kind=AGAIN, given=_written(_issued_at(NANOS)), meant=None, type_name="CommandSecurity"
    ),
    "… a number beyond 2^53": Trap(kind=AGAIN, given=_written(STEPPED), meant=None),
    "… fields that aren't set": Trap(kind=AGAIN, given=_written(NAMED), meant=None),
    "… a default that was written": Trap(kind=AGAIN, given="0a00", meant=None),
    "… a field that the schema doesn't have": Trap(kind=AGAIN, given="0a0163ba3e0178", meant=None),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    """What became of each trap, by loader."""
    home = loaders()
    cases = [trap.case(loader) for trap in TRAPS.values() for loader in LOADERS[:-1]]
    answer = subprocess.run(
        ["node", "loaders.mjs", str(PROTO)],
        cwd=home,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    made = iter(json.loads(answer.stdout))
    found: dict[str, dict[str, str]] = {}
    for name, trap in TRAPS.items():
        found[name] = {loader: _outcome(trap, next(made).get("hex")) for loader in LOADERS[:-1]}
        found[name]["Python"] = _outcome(trap, _in_python(trap))
    return found


def _outcome(trap: Trap, made: str | None) -> str:
    if made is None:
        return REFUSED
    return KEPT if made == trap.right else CHANGED


def _in_python(trap: Trap) -> str | None:
    message_class = getattr(pb, trap.type_name)
    ways: dict[str, Callable[[], Message]] = {
        JSON: lambda: json_format.ParseDict(trap.given, message_class()),
        OBJECT: lambda: message_class(**_dated(_snaked(trap.given))),
        AGAIN: lambda: message_class.FromString(bytes.fromhex(trap.given)),
    }
    try:
        return ways[trap.kind]().SerializeToString().hex()
    except (json_format.ParseError, ValueError, TypeError):
        return None


def _snaked(given: Any) -> Any:
    """With keys as in the .proto."""
    if not isinstance(given, dict):
        return given
    return {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value for key, value in given.items()}


def _dated(given: dict[str, Any]) -> dict[str, Any]:
    """With a datetime for a time, as Python's classes take it."""
    return {name: datetime.fromisoformat(value) if value == MILLIS else value for name, value in given.items()}


def _documented() -> Iterator[tuple[str, dict[str, str]]]:
    lines = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| Given |"))
    head = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield name, dict(zip(head, cells, strict=True))


def test_the_documented_table_is_what_the_loaders_do(outcomes: dict[str, dict[str, str]]) -> None:
    assert dict(_documented()) == outcomes


def test_every_loader_changes_something_without_a_word(outcomes: dict[str, dict[str, str]]) -> None:
    """So no page can say that one of them is safe: the bytes that were signed are the ones to send."""
    for loader in LOADERS:
        assert CHANGED in [outcomes[name][loader] for name in TRAPS], loader
