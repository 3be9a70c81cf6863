"""The four vectors that every implementation of our signature must give."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from esper.core.security.keys import derive_key
from esper.core.security.signing import signature_of, signing_input
from esper.leyline import CommandSecurity, SignedCommand

FILE = Path(__file__).with_name("signing_vectors.json")
DOCUMENT = json.loads(FILE.read_text(encoding="utf-8"))
MASTER = DOCUMENT["master_secret"].encode()

each_vector = pytest.mark.parametrize("vector", DOCUMENT["vectors"], ids=lambda vector: vector["name"])


def envelope(vector: dict[str, Any]) -> SignedCommand:
    security = CommandSecurity(
        nonce=vector["nonce"],
        issued_at=vector["issued_at"],
        freshness_window=vector["freshness_window"],
        key_id=vector["key_id"],
        algorithm=vector["algorithm"],
    )
    return SignedCommand(
        payload=bytes.fromhex(vector["payload_hex"]),
        payload_type=vector["payload_type"],
        audience=vector["audience"],
        security=security,
    )


def test_keys_are_derived_as_the_vectors_say() -> None:
    for key_id, key in DOCUMENT["derived_keys"].items():
        assert derive_key(MASTER, key_id).hex() == key


@each_vector
def test_python_gives_the_vectors_signature(vector: dict[str, Any]) -> None:
    command = envelope(vector)
    assert len(signing_input(command)) == vector["input_bytes"]
    assert signature_of(derive_key(MASTER, vector["key_id"]), command) == vector["signature"]


@each_vector
def test_a_wire_round_trip_does_not_change_the_signature(vector: dict[str, Any]) -> None:
    command = SignedCommand.FromString(envelope(vector).SerializeToString())
    assert signature_of(derive_key(MASTER, vector["key_id"]), command) == vector["signature"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@each_vector
def test_openssl_gives_the_vectors_signature(vector: dict[str, Any]) -> None:
    key = derive_key(MASTER, vector["key_id"]).hex()
    arguments = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-r"]
    answer = subprocess.run(arguments, input=signing_input(envelope(vector)), capture_output=True, check=True)
    assert answer.stdout.decode().split()[0] == vector["signature"]


def test_the_client_documentation_shows_the_same_vectors() -> None:
    documented = (FILE.parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
    for vector in DOCUMENT["vectors"]:
        assert vector["signature"] in documented
        assert str(vector["input_bytes"]) in documented
    assert DOCUMENT["derived_keys"]["k1"] in documented
