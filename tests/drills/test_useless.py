"""Grafts that have nothing to give are refused on real text, and the run ends as if it had never grown, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.drills.launching import LAUNCHER, events, train, training
from tests.unit.tools.experiments.loading import FOLDER

# Epochs of 36 steps: a checkpoint falls between the graft and the first look.
RUN = (
    *("--data", "pytext", "--samples", "1800", "--context", "32", "--epochs", "7", "--batch-size", "32"),
    *("--model", "transformer", "--depth", "2", "--width", "32", "--heads", "2", "--hidden", "64,64", "--lr", "3e-3"),
    *("--decay-fraction", "0.1", "--window-fraction", "0.3", "--checkpoint-every-epochs", "1"),
)
STACK = ("--stack-shares", "0.2", "--stack-recovery-steps", "30")
# Blocks that were silent at first do learn something in a short run: the margin is one that no such gain reaches.
ARMS: dict[str, tuple[str, ...]] = {
    "zero-output": (*STACK, "--stack-margin", "0.1"),
    "useless": STACK,
    "width": ("--blueprints", "span.linear", "--grow", "always"),
}


def launcher_of(arm: str) -> Sequence[str]:
    script = (sys.executable, str(FOLDER / "control_arms.py"), arm, "--")
    return LAUNCHER if arm == "width" else script


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run without growth."""
    return train(tmp_path_factory.mktemp("useless") / "never", *RUN, "--grow", "never")


def assert_refused(run_dir: Path, summary: dict[str, Any], never: dict[str, Any]) -> None:
    assert summary["growth"]["kept"] == 0
    assert summary["growth"]["judged"] >= 1
    assert "CULLED" in [event["to_stage"] for event in events(run_dir, "transition")]
    assert summary["weights_digest"] == never["weights_digest"]
    assert summary["reproducible"], summary["reproducible_cause"]


def wait_for_checkpoint(process: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    """Wait until the run has written a checkpoint of that step or a later one."""
    while process.poll() is None:
        if any(event["step"] >= step for event in events(run_dir, "checkpoint")):
            return
        time.sleep(0.02)  # polling another process's file
    raise AssertionError(f"the run ended with {process.returncode} without a checkpoint from step {step} on")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arm", ARMS)
def test_a_useless_graft_is_refused_and_leaves_the_never_grown_weights(
    tmp_path: Path, arm: str, never: dict[str, Any]
) -> None:
    flags = (*RUN, *ARMS[arm])
    whole = train(tmp_path / "whole", *flags, launcher=launcher_of(arm))
    assert whole.get("control_arm") == (None if arm == "width" else arm)
    assert_refused(tmp_path / "whole", whole, never)

    moves = events(tmp_path / "whole", "transition")
    graft_step = next(event["step"] for event in moves if event["to_stage"] in ("SHADOWING", "BLENDING"))
    with training(tmp_path / "killed", *flags, launcher=launcher_of(arm)) as process:
        wait_for_checkpoint(process, tmp_path / "killed", graft_step)
        process.kill()
        process.wait()
    assert "CULLED" not in [event["to_stage"] for event in events(tmp_path / "killed", "transition")]
    resumed = train(tmp_path / "killed", *flags, "--resume", launcher=launcher_of(arm))
    assert_refused(tmp_path / "killed", resumed, never)
    assert resumed["growth"] == whole["growth"]
