"""A run's directory of sockets outlives a kill -9 until the next start only; nobody else's is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esper.tolaria.plane.runtime_dir import LOCK, RuntimeDir

KILLED = """
import os, signal
from esper.tolaria.plane.runtime_dir import RuntimeDir
made = RuntimeDir()
(made.path / "tamiyo.sock").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_what_a_kill_left_is_removed_at_the_next_start(parent: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = parent.iterdir()
    assert (left / "tamiyo.sock").exists()
    made = RuntimeDir()
    assert list(parent.iterdir()) == [made.path]
    made.remove()
    assert list(parent.iterdir()) == []


def test_directories_of_living_runs_and_of_others_stay(parent: Path) -> None:
    living = RuntimeDir()
    foreign, unheld, other = parent / "esper-notes", parent / "esper-new", parent / "else"
    for folder in (foreign, unheld, other):
        folder.mkdir()
    for folder in (foreign, other):
        (folder / LOCK).touch()
    (foreign / "thesis.txt").touch()
    (parent / "esper-link").symlink_to(other)
    second = RuntimeDir()
    for path in (living.path, foreign, unheld, other, parent / "esper-link", second.path):
        assert path.exists()
    living.remove()
    second.remove()
