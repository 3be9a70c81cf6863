"""Whoever reads what a run prints may leave: it goes on, or stops after a checkpoint where its terminal hangs up."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drills.launching import NARROW, TIMEOUT_S, environment, training, wait_for_step
from tools.harness.faults.processes import services_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# A shell is the parent, so the run is not tied to this process.
UNTIED = (sys.executable, "-m", "esper.tolaria.launcher")
SHORT = (*UNTIED, *NARROW, "--epochs", "10")
LIVE = (*UNTIED, *(flag for flag in NARROW if flag != "--plain"))


@pytest.mark.parametrize("redirection", ["| head -1", "| true", ">&- 2>&-", ">/dev/full", "2>/dev/full >/dev/full"])
def test_a_run_whose_output_nobody_takes_ends_well(tmp_path: Path, redirection: str) -> None:
    script = f'set -o pipefail; "$@" {redirection}'
    command = ["bash", "-c", script, "run", *SHORT, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0
    told = "standard output was lost: No space left on device\n" if redirection == ">/dev/full" else ""
    assert done.stderr == told
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_terminal_that_hangs_up_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    ours, theirs = pty.openpty()
    command = [*LIVE, "--epochs", "1000", "--run-dir", str(run_dir)]
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while b"ms/step" not in shown:
        assert select.select([ours], [], [], TIMEOUT_S)[0]
        shown += os.read(ours, 65536)
    os.close(ours)
    process.wait(TIMEOUT_S)
    assert services_of(run_dir) == {}
    stopped = json.loads((run_dir / "summary.json").read_text())
    assert (stopped["finished"], stopped["stop_reason"]) == (False, "interrupted")
    assert list((run_dir / "checkpoints").glob("step-*.ckpt"))
    with training(run_dir, "--resume") as resumed:
        wait_for_step(resumed, run_dir, stopped["steps"] + 100)
