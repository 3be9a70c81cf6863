"""Every RPC has a client: `esper call` speaks to real services, signs what is signed, and uses a run's own line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from esper.cli.main import main
from esper.cli.services.call import PAYLOADS
from esper.core.security.run_line import Peer, RunLine, write_line
from esper.leyline import ControlRequest, PolicyUpdate, RunClosure
from esper.rpc.contract import SERVICES, methods
from tests.integration.services.service_process import SECRET, ServiceProcess
from tests.unit.tamiyo.builders import ALWAYS, RUN, packet, spec


def names() -> Iterator[tuple[str, str]]:
    """Every RPC as the command line names it, with the type of its request."""
    for service in SERVICES:
        for method in methods(service).values():
            yield f"{service.removesuffix('Service').lower()}.{method.name}", method.request.DESCRIPTOR


def test_what_a_signed_request_carries_is_known_of_each() -> None:
    signed = {
        name
        for name, request in names()
        if [field.message_type and field.message_type.name for field in request.fields] == ["SignedCommand"]
    }
    assert signed == set(PAYLOADS)


def as_json(message: Any) -> str:
    return json_format.MessageToJson(message, indent=None)


def test_a_run_is_asked_for_everything_that_it_is_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    with ServiceProcess("tamiyo", tmp_path / "t") as service:

        def call(method: str, request: str = "{}", place: tuple[str, ...] = ("--run-dir", str(tmp_path))) -> Any:
            assert main(["call", method, request, *place, "--run-id", RUN]) == 0
            return json.loads(capsys.readouterr().out)

        opened = call("tamiyo.OpenRun", as_json(spec(ALWAYS)), ("--at", service.endpoint))
        peer = Peer(endpoint=service.endpoint, token=opened["runToken"])
        write_line(tmp_path, RunLine(run_id=RUN, peers={"tamiyo": peer}))

        decision = call("tamiyo.Evaluate", as_json(ControlRequest(packet=packet(500))))["decision"]
        assert decision["metadata"]["reasons"] == ["DECISION_REASON_FORCED"]
        assert decision == {**call("tamiyo.Control", as_json(ControlRequest(packet=packet(500))))["decision"]} | {
            "commands": decision["commands"]
        }
        (report,) = call("tamiyo.ListFieldReports", '{"page_size": 5}')["reports"]
        assert report["decision"] == decision["metadata"]
        assert call("tamiyo.FlushHistory") == {"reports": "1", "open": "1"}
        assert call("tamiyo.GetStatus")["decisions"] == "1"
        update = PolicyUpdate(update_id="u1", policy_id="heuristic", version="0.1")
        update.issued_at.GetCurrentTime()
        place = ["--run-dir", str(tmp_path), "--run-id", RUN]
        assert main(["call", "tamiyo.ApplyPolicyUpdate", as_json(update), *place]) == 1
        told = capsys.readouterr()
        assert json.loads(told.out)["rejection"] == "POLICY_UPDATE_REJECTION_STALE_VERSION"
        assert told.err.startswith("refused, STALE_VERSION: version 0.1 is not newer than ")
        assert "stays in force" in told.err
        closure = RunClosure(training_run_id=RUN, generation=1, step=500, reason="stopped")
        assert call("tamiyo.CloseRun", as_json(closure)) == {"reports": "1"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["kasmina.ListSeed", "--at", "unix:/x"], 64, "did you mean 'kasmina.ListSeeds'?"),
        (["kasmina.ListSeeds"], 64, "name --run-dir RUN_DIR or --at ENDPOINT, one of them"),
        (["kasmina.ListSeeds", "--run-dir", "."], 78, "has no run under way whose services could be called"),
        (["kasmina.GetCommand", '{"command": 1}', "--at", "unix:/x"], 78, "the JSON doesn't describe one"),
        (["kasmina.GetCommand", "--at", "unix:/x"], 1, "command_id is required"),
        (["bus.Consume", '{"max_in_flight": -1}', "--at", "unix:/x"], 78, "the JSON doesn't describe one"),
        (["bus.Consume", '{"after_sequence": "9223372036854775808"}', "--at", "unix:/x"], 1, "after_sequence is"),
        (
            ["kasmina.GetCommand", "request.json", "--at", "unix:/x"],
            78,
            "give JSON, a file with it as FILE or @FILE, or -",
        ),
        (["kasmina.GetCommand", "[]", "--at", "unix:/x"], 78, "is no JSON object, and no file"),
        (["kasmina.GetCommand", "@/dev/null", "--at", "unix:/x"], 78, "it is empty; give {...}"),
        (["kasmina.GetCommand", "@.", "--at", "unix:/x"], 78, "is no JSON object, and no file (Is a directory)"),
        (
            ["kasmina.GetCommand", f"@{sys.executable}", "--at", "unix:/x"],
            78,
            "it holds no text; JSON in UTF-8 is read",
        ),
        (["kasmina.GetStatus", "--at", "unix:/x", "--timeout", "0"], 64, "more than 0 seconds are needed"),
        (["kasmina.GetStatus", "--at", "unix:/x", "--timeout", "nan"], 64, "more than 0 seconds are needed"),
        (["kasmina.GetStatus", "--at", "unix:/x", "--timeout", "inf"], 64, "more than 0 seconds are needed"),
    ],
)
def test_a_call_that_cannot_be_made_is_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    assert main(["call", *arguments]) == code
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told


def test_what_is_open_to_all_is_asked_without_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    with ServiceProcess("tamiyo", tmp_path / "t") as service:
        assert main(["call", "tamiyo.GetStatus", "--at", service.endpoint]) == 0
        assert json.loads(capsys.readouterr().out)["health"] == "HEALTH_STATUS_HEALTHY"
        assert main(["call", "tamiyo.GetRunState", "--at", service.endpoint]) == 78
    assert "ESPER_LEYLINE_SECRET" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("-", "by_stdin"),
        ("@", "by_stdin"),
        ("@-", "by_stdin"),
        ("request.json", "by_file"),
        ("@request.json", "by_file"),
    ],
)
def test_a_request_is_read_from_where_people_are_used_to_give_it(
    given: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    Path("request.json").write_text('{"by_file": 1}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"by_stdin": 1}'))
    assert main(["call", "kasmina.GetCommand", given, "--at", "unix:/x"]) == 78
    assert f'no field named "{field}"' in capsys.readouterr().err


def test_each_line_of_a_file_is_a_message_of_a_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    lines = tmp_path / "packets"
    with ServiceProcess("tamiyo", tmp_path / "t") as service:
        place = ["--at", service.endpoint, "--run-id", RUN]
        assert main(["call", "tamiyo.OpenRun", as_json(spec(ALWAYS)), *place]) == 0
        opened = json.loads(capsys.readouterr().out)
        peer = Peer(endpoint=service.endpoint, token=opened["runToken"])
        write_line(tmp_path, RunLine(run_id=RUN, peers={"tamiyo": peer}))
        asked = [as_json(ControlRequest(packet=packet(500))), "", as_json(ControlRequest(packet=packet(510)))]
        lines.write_text("\n".join(asked))
        assert main(["call", "tamiyo.Control", f"@{lines}", "--run-dir", str(tmp_path)]) == 0
    answers = [json.loads(line)["decision"] for line in capsys.readouterr().out.splitlines()]
    assert [answer["packetIndex"] for answer in answers] == ["50", "51"]


def test_a_line_that_was_damaged_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    write_line(tmp_path, RunLine(run_id=RUN, peers={}))
    (tmp_path / "services" / "line.json").write_text("{")
    assert main(["call", "kasmina.ListSeeds", "--run-dir", str(tmp_path)]) == 78
    assert "line.json" in capsys.readouterr().err
