"""Runs of the real launcher, with its real services, for drills."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esper.core.process.child import child_command

LAUNCHER = tuple(child_command("esper.tolaria.launcher"))
NARROW = ("--data", "digits", "--model", "mlp", "--hidden", "4,4", "--span-width", "+8", "--plain")
TIMEOUT_S = 300


def environment() -> dict[str, str]:
    """This process's environment without secrets, so that each run makes its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ESPER_", "TOLARIA_"))}


def train(run_dir: Path, *flags: str, launcher: Sequence[str] = LAUNCHER) -> dict[str, Any]:
    """Run to the end and return the summary."""
    command = [*launcher, *NARROW, "--run-dir", str(run_dir), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


@contextmanager
def training(run_dir: Path, *flags: str, launcher: Sequence[str] = LAUNCHER) -> Iterator[subprocess.Popen[str]]:
    """A run in the background; killed at the end if it is still there."""
    command = [*launcher, *NARROW, "--run-dir", str(run_dir), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def events(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events so far; a line that is being written is left out."""
    path = run_dir / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [event for event in found if kind in (None, event["kind"])]


def wait_for_step(process: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    """Wait until the run has passed a step."""
    while process.poll() is None:
        boundaries = events(run_dir, "boundary")
        if boundaries and boundaries[-1]["step"] >= step:
            return
        time.sleep(0.05)  # polling another process's file
    raise AssertionError(f"the run ended with {process.returncode} before step {step}")


def wait_for_event(process: subprocess.Popen[str], run_dir: Path, kind: str, words: str) -> None:
    """Wait until an event of a kind says certain words."""
    while process.poll() is None:
        if any(words in event.get("detail", "") for event in events(run_dir, kind)):
            return
        time.sleep(0.2)  # polling another process's file
    raise AssertionError(f"the run ended with {process.returncode} without {kind} {words!r}")
