"""What can befall a process: stopped for a while, killed, or kept from a processor by others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process is stopped inside, and goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """End a process as a power cut would."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def loaded_machine(processes: int = 4) -> Iterator[None]:
    """Processes that do nothing but compute, for as long as this one is there."""
    compute = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    busy = [subprocess.Popen([sys.executable, "-c", compute]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def services_of(run_dir: Path) -> dict[str, int]:
    """Process ids of the child services that work in a run's directory, by name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            service = next((part for part in command if re.fullmatch(r"esper\.\w+\.server", part)), None)
            if service is not None and str(run_dir / "services") in command:
                found[service.split(".")[1]] = int(entry.name)
    return found
