"""A file that one process holds, and what is said of the holder."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from esper.core.storage.file_lock import holder, says_held, try_hold

HOLD = (
    "import sys, pathlib; from esper.core.storage.file_lock import try_hold; held = try_hold(pathlib.Path(sys.argv[1]))"
)


def test_a_file_is_held_once_and_the_holder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    held = try_hold(path)
    assert held is not None
    assert try_hold(path) is None
    said = rf"another process \(pid {os.getpid()} on .+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)"
    assert re.fullmatch(said, holder(path))
    held.close()
    again = try_hold(path)
    assert again is not None
    again.close()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    program = f"{HOLD}; print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert try_hold(path) is None
        assert f"pid {process.pid} on" in holder(path)
        process.kill()
        process.wait()
        held = try_hold(path)
        assert held is not None
        held.close()


def test_a_file_that_was_removed_while_it_was_held_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    first = try_hold(path)
    assert first is not None
    path.unlink()
    second = try_hold(path)
    assert second is not None
    first.close()
    assert try_hold(path) is None
    second.close()


def test_a_holder_that_left_no_name_is_another_process(tmp_path: Path) -> None:
    assert holder(tmp_path / "absent") == "another process"


def test_whether_a_run_is_held_is_looked_up_without_touching_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    assert not says_held(lock)
    held = try_hold(lock)
    assert held is not None
    before = lock.stat()
    assert says_held(lock)
    assert lock.stat().st_mtime_ns == before.st_mtime_ns
    held.close()


@pytest.mark.parametrize(
    ("words", "is_held"),
    [
        ("", False),
        ("pid on", False),
        ("pid 99999999999999999999 on {host}", False),
        ("pid 12 on elsewhere", True),
        ("garbage", False),
    ],
)
def test_what_a_lock_says_is_weighed(tmp_path: Path, words: str, is_held: bool) -> None:
    lock = tmp_path / "run.lock"
    lock.write_text(words.format(host=socket.gethostname()))
    assert says_held(lock) == is_held


def test_the_lock_of_a_process_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    lock = tmp_path / "run.lock"
    lock.write_text(f"pid {int(gone.stdout)} on {socket.gethostname()}")
    assert not says_held(lock)
    lock.write_text(f"pid {os.getpid()} on {socket.gethostname()}")
    assert says_held(lock)
