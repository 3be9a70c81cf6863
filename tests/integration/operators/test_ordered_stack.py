"""An operator orders a stack while a run trains: signed by the command, accepted, judged like any other."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from esper.cli.main import main as esper
from esper.leyline import ApplyCommandRequest, ApplyCommandResponse
from esper.rpc.clients import KasminaClient
from tests.drills.launching import LAUNCHER, events, wait_for_event, wait_for_step
from tests.integration.services.service_process import SECRET, ServiceProcess

RUN = "walk"
HOSTS = "tests.unit.tolaria.stacks.vision_hosts"
# The rules wait for longer than the run lasts: what grows was ordered.
FLAGS = (
    *("--data", f"{HOSTS}:dots", "--model", f"{HOSTS}:near_sighted", "--epochs", "14", "--lr", "2e-3"),
    *("--growth-warmup-steps", "100000", "--window-fraction", "0.1", "--stack-recovery-steps", "30", "--plain"),
)
ORDER: dict[str, Any] = {
    "training_run_id": RUN,
    "generation": 1,
    "step": 0,
    "issued_by": "operator:me",
    "seed": {
        "operation": "SEED_OPERATION_KIND_GERMINATE",
        "slot_id": "stack:layer2",
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


def order(name: str, blueprint: str, **parameters: float) -> dict[str, Any]:
    given = [{"name": key, "value": value} for key, value in parameters.items()]
    seed = {**ORDER["seed"], "seed_id": name, "blueprint_id": blueprint, "parameters": given}
    return {**ORDER, "command_id": f"operator-{name}", "seed": seed}


@contextmanager
def training(run_dir: Path, kasmina: str) -> Iterator[subprocess.Popen[str]]:
    command = [*LAUNCHER, *FLAGS, "--run-dir", str(run_dir), "--kasmina", kasmina]
    environment = {**os.environ, "ESPER_LEYLINE_SECRET": SECRET}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_operator_orders_a_stack_on_a_live_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)

    def signed(wish: dict[str, Any]) -> ApplyCommandRequest:
        (tmp_path / "order.json").write_text(json.dumps(wish))
        capsys.readouterr()
        flags = ["--type", "AdaptationCommand", "--audience", f"kasmina/{RUN}", str(tmp_path / "order.json")]
        assert esper(["sign", *flags]) == 0
        return json_format.Parse(capsys.readouterr().out, ApplyCommandRequest())

    run_dir = tmp_path / RUN
    kasmina = ServiceProcess("kasmina", tmp_path / "kasmina")
    with kasmina, training(run_dir, kasmina.endpoint) as process:
        wait_for_step(process, run_dir, 20)
        client = KasminaClient(kasmina.channel)

        def answered(wish: dict[str, Any]) -> ApplyCommandResponse:
            return client.apply_command(signed(wish), timeout_s=10.0)

        too_long = answered(order("longer", "stack.part", blocks=9)).outcome
        assert not too_long.accepted
        assert too_long.detail == "stack:layer2 has 2 blocks; 9 of them can't be repeated"
        assert answered(order("deeper", "stack.double")).outcome.accepted
        wait_for_event(process, run_dir, "gate", "look 1: ")
        assert process.wait(300) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    (seed,) = summary["seeds"]
    assert (seed["seed_id"], seed["slot"], seed["blueprint_id"]) == ("deeper", "stack:layer2", "stack.double")
    assert seed["fate"] in {"kept", "culled"}
    assert seed["judgement"]["looks"] >= 1
    assert seed["judgement"]["evaluation_macs"] > 0
    moves = [event["to_stage"] for event in events(run_dir, "transition")]
    assert moves[:3] == ["GERMINATED", "SHADOWING", "PROBATIONARY"]
    assert summary["reproducible_cause"] == "operator:me gave command operator-deeper"
