"""A file that one process holds, and what is said of the holder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from esper.core.storage.file_lock import holder, try_hold

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
