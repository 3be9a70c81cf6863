"""Standard streams that are closed, full, or without a reader never end a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from esper.core.process import streams
streams.secure()
for number in range(3):
    streams.say(f"line {number} ± 1")
opened = open(sys.argv[1], "w")
opened.write(str(opened.fileno()))
opened.close()
streams.settle()
"""


def run(tmp_path: Path, redirection: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program in a shell under a redirection; it must always come to its end."""
    script = f'exec "$0" -c "$1" "$2" {redirection}'
    command = ["sh", "-c", script, sys.executable, PROGRAM, str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
    assert int((tmp_path / "out").read_text()) > 2  # no file stands where a stray message may be written
    return done


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_goes_nowhere(tmp_path: Path, redirection: str) -> None:
    done = run(tmp_path, redirection)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == (0 if ">&-" in redirection.replace("2>&-", "") else 3)


def test_a_full_stream_is_told_once_on_the_other(tmp_path: Path) -> None:
    done = run(tmp_path, ">/dev/full")
    assert (done.returncode, done.stderr) == (0, b"standard output was lost: No space left on device\n")
    assert run(tmp_path, ">/dev/full 2>/dev/full").returncode == 0


def test_what_an_encoding_lacks_is_replaced(tmp_path: Path) -> None:
    done = run(tmp_path, "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[0] == b"line 0 ? 1"


def test_a_reader_that_went_away_is_nobody_s_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out")]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
