"""Clients in other languages, generated from the protos alone: each one's bytes and signatures, and Kasmina's answer.

Node's is in the default suite; `make clients` builds and tries them all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from esper.leyline import CommandOutcome, RejectionReason
from tests.clients.commands import pause
from tests.clients.languages import CLIENTS, Client
from tests.contract import compatibility

# What a library writes otherwise than ours, and may: the service takes the bytes that were signed, in any order.
GO_PUTS_A_ONEOF_LAST = {
    *(
        f"AdaptationCommand{action}"
        for action in ("", ".seed", ".optimizer", ".circuit_breaker", ".pause", ".resume", ".rollback", ".emergency")
    ),
    *("PolicyUpdate", "TamiyoRunSpec", "TamiyoRunState", "TriggerSettings", "TriggerSettings.span_units"),
}
OTHER_BYTES = {
    "node": set(),
    "python": set(),
    "go": GO_PUTS_A_ONEOF_LAST | {"not a number"},  # its NaN has another bit set
    "java": {"minus infinity"},  # which has a -0.0, read as 0
}


def _languages() -> list[Any]:
    others = [pytest.param(name, marks=pytest.mark.slow) for name in CLIENTS if name != "node"]
    return [pytest.param("node", marks=pytest.mark.node), *others]


@pytest.fixture(scope="module", params=_languages())
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(language: str) -> Client:
    return CLIENTS[language]()


def test_every_signature_is_as_the_vectors_say_and_bytes_differ_only_where_we_know_it(
    language: str, client: Client
) -> None:
    answer = client.check(compatibility.FILE)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["checked"] == len(list(compatibility.vectors()))
    assert found["signatures"] == []
    assert set(found["bytes"]) == OTHER_BYTES[language]


def test_a_client_that_signs_differently_would_be_found(client: Client, tmp_path: Path) -> None:
    document = json.loads(compatibility.document())
    document["vectors"] = document["vectors"][:2]
    first, second = document["vectors"]
    first["payload_hex"] += "00"
    second["signature"] = "0" * 64
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps(document))
    found = json.loads(client.check(file).stdout)
    assert found["bytes"] == [first["name"]]
    assert found["signatures"] == [first["name"], second["name"]]


def test_kasmina_acts_on_a_command_and_refuses_a_forged_one(
    language: str, client: Client, kasmina: str, secret: str, command_file: Path
) -> None:
    def send(command: dict[str, Any], *flags: str) -> Any:
        command_file.write_text(json.dumps(command), encoding="utf-8")
        return client.send(command_file, secret, "--endpoint", kasmina, *flags)

    answer = send(pause(f"{language}-1"))
    assert answer.returncode == 0, answer.stderr
    outcome = json_format.Parse(answer.stdout, CommandOutcome())
    assert outcome.accepted
    assert outcome.ledger_seq >= 1
    assert not outcome.repeated_id

    again = json_format.Parse(send(pause(f"{language}-1")).stdout, CommandOutcome())
    assert (again.repeated_id, again.ledger_seq) == (True, outcome.ledger_seq)

    other = send(pause(f"{language}-1", "other"))
    assert other.returncode == 1

    forged = send(pause(f"{language}-2"), "--key-id", "k9")
    assert forged.returncode == 1
    assert "UNAUTHENTICATED" in forged.stderr.upper()

    elsewhere = send({**pause(f"{language}-3"), "training_run_id": "another"})
    assert elsewhere.returncode == 1
    refused = json_format.Parse(elsewhere.stdout, CommandOutcome())
    assert refused.rejection == RejectionReason.REJECTION_REASON_WRONG_RUN


@pytest.mark.parametrize(
    "wrong",
    [
        {"pauze": {}},
        {"pause": {"reason": "x"}},
        {"pause": None, "emergency": {"level": "EMERGENCY_LEVEL_L9"}},
        {"generation": "many"},
        {"prune": {"seed_id": "s1", "rationale": "r"}},
    ],
    ids=["unknown action", "unknown field", "unknown name of an enum", "no number", "two actions"],
)
def test_what_would_be_signed_differently_is_refused_before_it_is_signed(
    client: Client, wrong: dict[str, Any], secret: str, command_file: Path
) -> None:
    command_file.write_text(json.dumps({**pause("wrong"), **wrong}), encoding="utf-8")
    answer = client.send(command_file, secret, "--endpoint", "127.0.0.1:9")
    assert answer.returncode == 64, answer.stderr
    assert answer.stdout == ""


def test_white_space_around_a_secret_is_no_part_of_it(
    language: str, client: Client, kasmina: str, secret: str, command_file: Path
) -> None:
    """As a file's last newline is none to the services; what is left of nothing but white space is no secret."""
    command_file.write_text(json.dumps(pause(f"{language}-space")), encoding="utf-8")
    answer = client.send(command_file, f" {secret}\r\n", "--endpoint", kasmina)
    assert answer.returncode == 0, answer.stderr
    answer = client.send(command_file, " \n", "--endpoint", kasmina)
    assert (answer.returncode, answer.stdout) == (64, "")
    assert answer.stderr.strip().endswith("set ESPER_LEYLINE_SECRET to the run's secret")


def test_a_kasmina_that_is_not_there_is_worth_another_try(client: Client, secret: str, command_file: Path) -> None:
    command_file.write_text(json.dumps(pause("nobody")), encoding="utf-8")
    answer = client.send(command_file, secret, "--endpoint", "127.0.0.1:9")
    assert answer.returncode == 75, answer.stderr
