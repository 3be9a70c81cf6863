"""What the client in Node prints: signatures of the documented vectors, and envelopes that our verifier believes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from google.protobuf import json_format

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.core.security.signing import Verifier, open_payload
from esper.leyline import AdaptationCommand, ApplyCommandRequest
from tests.clients.commands import RUN, pause
from tests.clients.languages import ROOT, Client, node

VECTORS = ROOT / "tests" / "contract" / "signing_vectors.json"

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def client() -> Client:
    return node()


def test_node_gives_every_vectors_signature(client: Client) -> None:
    answer = subprocess.run(
        ["node", "vectors.mjs", str(VECTORS)], cwd=client.home, capture_output=True, text=True, check=True
    )
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    expected = [(v["name"], v["signature"], v["input_bytes"]) for v in document["vectors"]]
    found = json.loads(answer.stdout)
    assert [(v["name"], v["signature"], v["input_bytes"]) for v in found] == expected
    assert found[0]["key"] == document["derived_keys"]["k1"]


def test_what_node_signs_our_verifier_believes(client: Client, secret: str, command_file: Path) -> None:
    command_file.write_text(json.dumps(pause("node-1")), encoding="utf-8")
    answer = client.send(command_file, secret, "--sign-only")
    assert answer.returncode == 0, answer.stderr
    envelope = json_format.Parse(answer.stdout, ApplyCommandRequest()).command
    verifier = Verifier(Keyring.from_secret(secret), SYSTEM_CLOCK)
    verifier.verify(envelope, audience=f"kasmina/{RUN}", payload_type=AdaptationCommand.DESCRIPTOR.full_name)
    command = open_payload(envelope, AdaptationCommand)
    assert command.pause.rationale == "häufig"
    assert command.HasField("generation")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('{"pauze": {}}', "AdaptationCommand has no field pauze"),
        ('{"pause": {"reason": "x"}}', "AdaptationCommand.pause has no field reason"),
        (
            '{"step": 9007199254740993}',
            "AdaptationCommand.step is 9007199254740992, which JavaScript can't hold exactly",
        ),
        ('{"emergency": {"level": "L9"}}', "AdaptationCommand.emergency.level is L9, which is none of"),
        ("{", "JSON"),
    ],
)
def test_node_says_what_it_refuses_to_sign(
    client: Client, command: str, message: str, secret: str, command_file: Path
) -> None:
    command_file.write_text(command, encoding="utf-8")
    answer = client.send(command_file, secret, "--sign-only")
    assert answer.returncode == 64
    assert message in answer.stderr
    assert answer.stdout == ""
