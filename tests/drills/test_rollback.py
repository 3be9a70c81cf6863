"""A run that goes back after a loss that can't be used: its services follow it, also through a kill."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.drills.launching import events, train, training, wait_for_event, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DIVERGES_AT = 500
FAULTY = (sys.executable, "-m", "tools.harness.faults.launch")
LAUNCHER = (*FAULTY, f"breaking-down={DIVERGES_AT}")
# When part of the optimiser's state is written over.
DYING = (*FAULTY, f"breaking-down={DIVERGES_AT},dying-in-restore=7")
# The newest state before the break is a snapshot in memory, some steps after the newest checkpoint.
KEPT = ("--checkpoint-every-epochs", "5", "--snapshot-every-steps", "30")
STEPS = ("--epochs", "60", *KEPT, "--on-nonfinite", "rollback")
SAME = ("weights_digest", "growth", "rollbacks", "final_widths", "test_accuracy")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    summary = train(run_dir, *STEPS, launcher=LAUNCHER)
    assert "from memory" in events(run_dir, "rollback")[0]["detail"]
    assert summary["rollbacks"] == 1
    assert summary["growth"]["judged"] > 0, "a drill without growth proves nothing"
    return {name: summary[name] for name in SAME}


@pytest.mark.parametrize("later_by", [0, 40, 300])
def test_a_run_killed_after_a_rollback_resumes_to_the_same_weights(
    unbroken: dict[str, object], tmp_path: Path, later_by: int
) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, *STEPS, launcher=LAUNCHER) as process:
        wait_for_event(process, run_dir, "rollback", "back to step")
        if later_by:
            wait_for_step(process, run_dir, DIVERGES_AT + later_by)
        process.kill()
        process.wait()
    summary = train(run_dir, *STEPS, "--resume", launcher=LAUNCHER)
    assert {name: summary[name] for name in SAME} == unbroken


def test_a_run_killed_in_the_middle_of_a_restore_resumes_to_the_same_weights(
    unbroken: dict[str, object], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, *STEPS, launcher=DYING) as process:
        process.wait(300)
        assert process.returncode == -signal.SIGKILL
    assert not events(run_dir, "rollback")
    summary = train(run_dir, *STEPS, "--resume", launcher=LAUNCHER)
    assert {name: summary[name] for name in SAME} == unbroken
