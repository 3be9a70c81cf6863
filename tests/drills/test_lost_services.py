"""kill -9 of each service in the middle of a run: said at once, survived, and nothing acknowledged is lost."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from tests.drills.launching import events, training, wait_for_event, wait_for_step
from tools.harness.faults.processes import frozen, kill, services_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_S = 30.0


@pytest.mark.parametrize("service", ["tamiyo", "kasmina"])
def test_training_goes_on_without_a_service_and_takes_it_back(service: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, "--epochs", "1000", "--grow", "always", "--growth-warmup-steps", "60") as process:
        wait_for_step(process, run_dir, 450)
        kill(services_of(run_dir)[service])
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
        kill(services_of(run_dir)["weatherlight"])
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-2000:]
    assert "weatherlight ended with signal SIGKILL" in output
    assert "reproducible: yes" in output


def test_a_killed_trainer_leaves_no_service_behind(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, "--epochs", "1000") as process:
        wait_for_step(process, run_dir, 20)
        assert set(services_of(run_dir)) == {"weatherlight", "tamiyo", "kasmina"}
        process.kill()
        process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while left := services_of(run_dir):
        assert time.monotonic() < deadline, f"{left} outlived the trainer"
        time.sleep(0.1)  # polling other processes


def test_a_frozen_tamiyo_costs_a_few_deadlines_and_is_asked_again_when_it_thaws(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, "--epochs", "100000", "--deadline-s", "1") as process:
        wait_for_step(process, run_dir, 100)
        with frozen(services_of(run_dir)["tamiyo"]):
            wait_for_event(process, run_dir, "breaker", "missed 3 deadlines in a row")
            frozen_at = events(run_dir, "boundary")[-1]["step"]
            wait_for_step(process, run_dir, frozen_at + 1000)  # which thousands of deadlines would not have allowed
        wait_for_event(process, run_dir, "breaker", "tamiyo answers again")
        wait_for_event(process, run_dir, "mode", "normal mode")
        process.terminate()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output[-2000:]
    assert len(events(run_dir, "timeout")) >= 3
