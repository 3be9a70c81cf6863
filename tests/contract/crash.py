"""Children that are killed with -9 while they write, and what they had acknowledged by then."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def acknowledged_before_kill(script: str, *arguments: str, at_least: int) -> list[str]:
    """Run `script`, kill it -9 once it has printed that many lines, and return every line that it printed."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, cwd=ROOT, text=True, bufsize=1
    )
    assert child.stdout is not None
    with child, child.stdout as output:
        lines = [output.readline() for _ in range(at_least)]
        child.send_signal(signal.SIGKILL)
        lines += output.readlines()
        child.wait()
    assert child.returncode == -signal.SIGKILL, f"the child ended by itself: {lines}"
    # A line without its end was being written when the child died.
    return [line.rstrip("\n") for line in lines if line.endswith("\n")]
