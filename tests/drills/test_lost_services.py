"""kill -9 of each service in the middle of a run: said at once, survived, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.drills.launching import events, training, wait_for_event, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def pid_of(service: str, run_dir: Path) -> int:
    """Process id of a child service that works in the run's directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if f"esper.{service}.server" in command and str(run_dir / "services") in command:
                return int(entry.name)
    raise AssertionError(f"no process of {service} for {run_dir}")


@pytest.mark.parametrize("service", ["tamiyo", "kasmina"])
def test_training_goes_on_without_a_service_and_takes_it_back(service: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, "--epochs", "1000", "--grow", "always", "--growth-warmup-steps", "60") as process:
        wait_for_step(process, run_dir, 450)
        os.kill(pid_of(service, run_dir), signal.SIGKILL)
        wait_for_event(process, run_dir, "mode", "normal mode")
        process.terminate()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output[-2000:]
    assert f"{service} ended with signal SIGKILL" in output
    assert "conservative mode" in output
    assert f"{service} started again" in output
    assert "normal mode" in output
    commands = events(run_dir, "command")
    accepted = {event["command_id"] for event in commands if event["accepted"]}
    with sqlite3.connect(run_dir / "services" / "kasmina.db") as ledger:
        recorded = {row[0] for row in ledger.execute("SELECT command_id FROM commands")}
    assert accepted
    assert accepted <= recorded


def test_losing_weatherlight_costs_telemetry_alone(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, "--epochs", "40") as process:
        wait_for_step(process, run_dir, 200)
        os.kill(pid_of("weatherlight", run_dir), signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-2000:]
    assert "weatherlight ended with signal SIGKILL" in output
    assert "reproducible: yes" in output
