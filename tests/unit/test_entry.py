"""Console commands: each starts its program, and a Ctrl-C before that has begun is quiet."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from esper import entry

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = """
import sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing", flush=True)
            import time
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from esper import entry
sys.exit(entry.tolaria_train())
"""


def test_a_ctrl_c_while_a_program_is_imported_is_quiet_and_130() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "")


def test_the_programs_own_handling_of_a_ctrl_c_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []
    monkeypatch.setattr("esper.cli.main.main", lambda: seen.append(signal.getsignal(signal.SIGINT)) or 3)
    assert entry.esper() == 3
    assert seen == [before]


def test_every_console_command_is_here() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, name = target.split(":")
        assert module == "esper.entry"
        assert callable(getattr(entry, name))
