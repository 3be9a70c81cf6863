"""A child process ends with the one that started it, however early that is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper.core.process.child import child_command

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux's")
WAIT_S = 20.0
# Says its pid and what it was given, and sleeps until it is ended.
SLEEPER = "import os, signal, sys; print(os.getpid(), *sys.argv[1:], flush=True); signal.pause()"
# Starts a child, says the child's pid, then waits to be killed or ends at once.
PARENT = """
import subprocess, sys
from esper.core.process.child import child_command
child = subprocess.Popen(child_command("sleeper", "an", "argument"), process_group=0)
print(child.pid, flush=True)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "slow_sleeper.py").write_text(f"import time; time.sleep(1)\n{SLEEPER}")
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', os.getcwd())}"}


def ended(pid: int) -> bool:
    """Whether a process that is nobody's child here ends in time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], WAIT_S)[0])
    finally:
        os.close(handle)


def test_a_module_is_run_with_its_arguments(environment: dict[str, str]) -> None:
    command = child_command("sleeper", "an", "argument")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid} an argument\n"
        process.terminate()


def test_a_child_ends_with_its_parent(environment: dict[str, str]) -> None:
    parent = f"{PARENT}\nsys.stdin.read()"
    with started(parent, environment) as process:
        pid = first_number(process)
        assert first_number(process) == pid  # the module runs
        process.kill()
        assert ended(pid)


def test_a_stopped_child_ends_with_its_parent_too(environment: dict[str, str]) -> None:
    parent = f"{PARENT}\nsys.stdin.read()"
    with started(parent, environment) as process:
        pid = first_number(process)
        assert first_number(process) == pid
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        assert ended(pid)


def test_a_child_whose_parent_is_gone_before_it_can_ask_never_runs_its_module(environment: dict[str, str]) -> None:
    with started(PARENT, environment) as process:
        pid = first_number(process)
        process.wait(WAIT_S)
        assert ended(pid)
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_a_parent_is_looked_at_after_the_kernel_was_asked(environment: dict[str, str]) -> None:
    of_another = [sys.executable, "-m", "esper.core.process.child", str(os.getppid()), "sleeper"]
    done = subprocess.run(of_another, env=environment, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (os.EX_UNAVAILABLE, "", "")


def started(program: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_number(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline().split()[0])
