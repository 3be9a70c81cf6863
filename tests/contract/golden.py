"""Golden bytes: every message with every field set, once for each member of a oneof, as they were first recorded.

`python -m tests.contract.golden` records what is new; it refuses to change what was recorded, unless --all is given.
It writes the compatibility vectors too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

import esper.leyline as leyline

FILE = Path(__file__).with_name("golden_bytes.json")
MAX_DEPTH = 1


def message_classes() -> dict[str, type[Message]]:
    named = {name: getattr(leyline, name) for name in leyline.__all__}
    return {name: found for name, found in named.items() if isinstance(found.DESCRIPTOR, Descriptor)}


def samples() -> dict[str, Message]:
    """Samples by message name, and by "Message.member" for each member of a oneof but the last."""
    found: dict[str, Message] = {}
    for name, message_class in sorted(message_classes().items()):
        found[name] = sample(message_class)
        for oneof in message_class.DESCRIPTOR.oneofs:
            members = [field.name for field in oneof.fields]
            for member in members[:-1]:
                found[f"{name}.{member}"] = sample(message_class, without={*members} - {member})
    return found


def sample(message_class: type[Message], depth: int = 0, without: Collection[str] = ()) -> Message:
    """Every field set, from its number and name alone; of a oneof its last member; messages in messages are flat."""
    message: Any = message_class()
    for field in message.DESCRIPTOR.fields:
        if field.name in without or (field.message_type is not None and depth > MAX_DEPTH):
            continue
        value = _value(message, field, depth)
        if field.is_repeated:
            getattr(message, field.name).extend([value, value])
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def _value(message: Any, field: FieldDescriptor, depth: int) -> Any:
    if field.message_type is not None:
        return sample(field.message_type._concrete_class, depth + 1)
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return {
        FieldDescriptor.CPPTYPE_STRING: field.name if field.type == field.TYPE_STRING else field.name.encode(),
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_FLOAT: field.number + 0.5,
        FieldDescriptor.CPPTYPE_DOUBLE: field.number + 0.25,
    }.get(field.cpp_type, field.number * 1000)


def encoded(message: Message) -> str:
    return message.SerializeToString(deterministic=True).hex()


def recorded() -> dict[str, str]:
    found: dict[str, str] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.golden", description=__doc__)
    parser.add_argument("--all", action="store_true", help="change what was recorded, too")
    given = parser.parse_args()
    old = recorded()
    new = {name: encoded(found) for name, found in samples().items()}
    changed = [name for name in new if name in old and old[name] != new[name]]
    if changed and not given.all:
        print(f"the bytes of {', '.join(changed)} would change; if that is meant, give --all", file=sys.stderr)
        return 1
    FILE.write_text(json.dumps(new, indent=0) + "\n")
    from tests.contract import compatibility  # which is made of these samples

    compatibility.FILE.write_text(compatibility.document(), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
