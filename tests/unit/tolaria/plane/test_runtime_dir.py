"""A run's directory of sockets outlives a kill -9 until the next start only; nobody else's is touched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.rpc.endpoint import MAX_SOCKET_PATH_BYTES, Endpoint
from esper.tolaria.plane.runtime_dir import LOCK, RuntimeDir
from esper.tolaria.plane.services import START_ORDER

KILLED = """
import os, signal
from esper.tolaria.plane.runtime_dir import RuntimeDir
made = RuntimeDir()
(made.path / "tamiyo.sock").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path: sockets have to have room in it, however long the tests' own directory is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


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


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
@pytest.mark.parametrize(
    ("name", "complaint"), [("x" * 100, "sockets have no room in it"), ("absent", "sockets can be made there: No such")]
)
def test_a_place_where_sockets_can_not_be_is_told_by_its_variable_with_what_to_do(
    variable: str, name: str, complaint: str, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if variable == "XDG_RUNTIME_DIR":
        monkeypatch.setenv(variable, str(parent / name))
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(parent / name))
    with pytest.raises(ConfigError, match=f"{variable} = .*{complaint}.*set XDG_RUNTIME_DIR or TMPDIR"):
        RuntimeDir()


def test_every_socket_has_room_in_the_longest_place_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    most = MAX_SOCKET_PATH_BYTES - len("/esper-12345678/weatherlight.sock")
    with tempfile.TemporaryDirectory(prefix="esper-", dir="/tmp") as name:
        folder = Path(name) / ("x" * (most - len(name) - 1))
        folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        made = RuntimeDir()
        for service in START_ORDER:
            Endpoint.parse(f"unix:{made.path / service}.sock")
        made.remove()
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{folder}x")
        with pytest.raises(ConfigError, match=f"takes {most + 1} bytes, and with more than {most}"):
            RuntimeDir()
