from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from esper.cli.main import main
from esper.cli.services.sign import SIGNABLE
from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Verifier, open_payload
from esper.kasmina.control.orders import dispatch
from esper.leyline import AdaptationCommand, ApplyCommandRequest
from tests.contract.proto_comments import comments
from tests.unit.kasmina.control.making import kinds, stack_run, turn

PAUSE: dict[str, Any] = {
    "command_id": "c1",
    "training_run_id": "run-1",
    "generation": 0,
    "step": 10,
    "issued_by": "operator:me",
    "pause": {"rationale": "lunch"},
}
TYPE = AdaptationCommand.DESCRIPTOR.full_name
SIGNED = re.compile(r"Signed (\w+)")
ARGUMENTS = ["sign", "--type", "AdaptationCommand", "--audience", "kasmina/run-1"]


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    secret = new_secret()
    monkeypatch.delenv("ESPER_KEYRING", raising=False)
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", secret)
    return secret


def request(tmp_path: Path, content: object) -> str:
    path = tmp_path / "request.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def verified(printed: str, secret: str) -> AdaptationCommand:
    envelope = json_format.Parse(printed, ApplyCommandRequest()).command
    verifier = Verifier(Keyring.from_secret(secret), SYSTEM_CLOCK)
    verifier.verify(envelope, audience="kasmina/run-1", payload_type=TYPE)
    return open_payload(envelope, AdaptationCommand)


def test_the_printed_request_verifies(tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, request(tmp_path, PAUSE)]) == 0
    command = verified(capsys.readouterr().out, secret)
    assert command.pause.rationale == "lunch"
    assert command.HasField("generation")


def test_a_file_may_begin_with_a_byte_order_mark(
    tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ARGUMENTS, request(tmp_path, "\ufeff" + json.dumps(PAUSE))]) == 0
    assert verified(capsys.readouterr().out, secret).pause.rationale == "lunch"


def test_a_request_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(PAUSE)))
    assert main(ARGUMENTS) == 0
    assert verified(capsys.readouterr().out, secret).command_id == "c1"


def test_a_runs_secret_file_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    path, secret = tmp_path / "secret", new_secret()
    path.write_text(secret + "\n")
    path.chmod(0o600)
    assert main([*ARGUMENTS, "--key", str(path), request(tmp_path, PAUSE)]) == 0
    assert verified(capsys.readouterr().out, secret).command_id == "c1"
    path.chmod(0o644)
    assert main([*ARGUMENTS, "--key", str(path), request(tmp_path, PAUSE)]) == 78


def test_a_weak_secret_file_is_named_and_its_content_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2")
    path.chmod(0o600)
    assert main([*ARGUMENTS, "--key", str(path), request(tmp_path, PAUSE)]) == 78
    error = capsys.readouterr().err
    assert str(path) in error
    assert "hunter2" not in error


def test_a_keyring_file_signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keyring"
    main(["keys", "new", str(path)])
    capsys.readouterr()
    assert main([*ARGUMENTS, "--key", str(path), request(tmp_path, PAUSE)]) == 0
    envelope = json_format.Parse(capsys.readouterr().out, ApplyCommandRequest()).command
    Verifier(Keyring.load(path), SYSTEM_CLOCK).verify(envelope, audience="kasmina/run-1", payload_type=TYPE)


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("{", 78, "doesn't describe one"),
        ([], 78, "it is no object"),
        ("", 78, "it is empty"),
        ({**PAUSE, "pauze": {}}, 78, 'no field named "pauze"'),
        ({**PAUSE, "generation": "many"}, 78, "doesn't describe one"),
        ({"command_id": "c1"}, 1, "training_run_id is required; generation is required"),
    ],
)
def test_a_request_that_is_no_such_message_is_one_clear_line(
    tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str], content: object, code: int, message: str
) -> None:
    assert main([*ARGUMENTS, request(tmp_path, content)]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("audience", ["kasmina", "kasmina/", "/run-1", "tolaria/run-1"])
def test_an_audience_is_a_service_and_a_run(tmp_path: Path, secret: str, audience: str) -> None:
    argv = ["sign", "--type", "AdaptationCommand", "--audience", audience, request(tmp_path, PAUSE)]
    assert main(argv) == 64


@pytest.mark.parametrize("seconds", ["0", "-1", "121", "nan"])
def test_a_freshness_that_no_service_accepts_is_wrong_usage(tmp_path: Path, secret: str, seconds: str) -> None:
    assert main([*ARGUMENTS, f"--freshness={seconds}", request(tmp_path, PAUSE)]) == 64


def test_without_a_key_nothing_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    monkeypatch.delenv("ESPER_KEYRING", raising=False)
    assert main([*ARGUMENTS, request(tmp_path, PAUSE)]) == 78
    assert "esper keys new" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, str(tmp_path / "absent.json")]) == 78
    assert "absent.json" in capsys.readouterr().err


def test_every_message_that_a_service_takes_signed_can_be_signed_here() -> None:
    described = {
        match[1] for entries in comments().values() for match in [SIGNED.match(entries.get("command", ""))] if match
    }
    assert described == set(SIGNABLE)


def test_an_order_is_signed_in_a_command_and_whoever_tries_otherwise_is_told(
    tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    back = {key: value for key, value in PAUSE.items() if key != "pause"}
    back["rollback"] = {"rationale": "worse", "to_step": "400"}
    assert main(["sign", "--type", "RollbackOrder", "--audience", "kasmina/run-1", request(tmp_path, back)]) == 64
    assert """an AdaptationCommand carries it: give --type AdaptationCommand, and {"rollback": {...}}""" in (
        capsys.readouterr().err
    )
    assert main(["sign", "--type", "Nonsense", "--audience", "kasmina/run-1", request(tmp_path, back)]) == 64
    assert "use one of AdaptationCommand, " in capsys.readouterr().err
    assert main([*ARGUMENTS, request(tmp_path, back)]) == 0
    signed = json_format.Parse(capsys.readouterr().out, ApplyCommandRequest())
    command = AdaptationCommand.FromString(signed.command.payload)
    assert (command.rollback.rationale, command.rollback.to_step) == ("worse", 400)


def test_an_operator_orders_a_stack(tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    order = {
        "command_id": "c1",
        "training_run_id": "run-1",
        "generation": 0,
        "step": 100,
        "issued_by": "operator:me",
        "seed": {
            "seed_id": "deeper",
            "operation": "SEED_OPERATION_KIND_GERMINATE",
            "slot_id": "stack:blocks",
            "blueprint_id": "stack.double",
            "initialization_seed": 1,
            "blend": {
                "mode": "BLEND_MODE_RESIDUAL",
                "alpha_start": 1,
                "alpha_target": 1,
                "schedule": "BLEND_SCHEDULE_WARMUP_HOLD",
                "schedule_steps": 0,
            },
        },
    }
    assert main([*ARGUMENTS, request(tmp_path, order)]) == 0
    command = verified(capsys.readouterr().out, secret)
    outcome = dispatch.apply(turn(step=100, run=stack_run()), command)
    assert outcome.accepted, outcome.detail
    assert kinds(list(outcome.directives)) == ["SNAPSHOT_TWIN", "BUILD", "ATTACH"]
