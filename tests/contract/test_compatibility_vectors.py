"""The vectors that any client can check itself against say what our own schema and signature say."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format

from esper import leyline as pb
from esper.cli.services.sign import SIGNABLE
from tests.contract.compatibility import FILE, document, signature
from tests.contract.golden import message_classes

VECTORS = json.loads(FILE.read_text(encoding="ascii"))["vectors"]


def test_the_file_is_what_the_schema_gives() -> None:
    assert FILE.read_text(encoding="ascii") == document(), "write it anew: python -m tests.contract.compatibility"


def test_there_is_a_vector_for_every_message_and_for_every_action_of_a_command() -> None:
    types = {vector["type"].rpartition(".")[2] for vector in VECTORS}
    assert types == set(message_classes())
    assert set(SIGNABLE) <= types
    actions = [field.name for field in pb.AdaptationCommand.DESCRIPTOR.oneofs_by_name["action"].fields]
    commands = [vector["message"] for vector in VECTORS if vector["type"] == pb.AdaptationCommand.DESCRIPTOR.full_name]
    assert {action for command in commands for action in actions if action in command} == set(actions)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_python_builds_the_bytes_and_the_signature_from_the_json(vector: dict[str, str]) -> None:
    message = getattr(pb, vector["type"].rpartition(".")[2])()
    json_format.ParseDict(vector["message"], message)
    payload = message.SerializeToString(deterministic=True)
    assert payload.hex() == vector["payload_hex"]
    assert signature(payload, vector["type"]) == vector["signature"]
