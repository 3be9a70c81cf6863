"""Every script tells how it is used, from any folder and with nothing set for it, and refuses what it doesn't know."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "tools"
PASSES_ON = {"buf"}  # to a program that npm brings
FOREIGN = {"beside_gromo.py"}  # needs a package that is installed for it alone
SCRIPTS = [
    path
    for room in ("bench", "experiments")
    for path in sorted((TOOLS / room).rglob("*.py"))
    if path.read_text().startswith("#!") and path.name not in FOREIGN
]

COMMANDS = [
    str(path.relative_to(TOOLS))
    for room in (TOOLS, TOOLS / "bench", TOOLS / "ui")
    for path in sorted(room.iterdir())
    if not path.suffix and path.is_file() and path.name not in PASSES_ON
]


RECORDERS = ("tests.contract.golden", "tests.contract.compatibility", "tests.ledgers.record")


@pytest.mark.parametrize("module", RECORDERS)
def test_what_records_anew_does_nothing_when_it_is_asked_how_or_what_it_does_not_know(module: str) -> None:
    def called(argument: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", module, argument]
        return subprocess.run(line, cwd=TOOLS.parent, capture_output=True, text=True, timeout=120)

    helped, refused = called("--help"), called("--nonsense")
    assert (helped.returncode, helped.stdout.partition(":")[0]) == (0, "usage")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("unrecognized arguments: --nonsense\n")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A copy: what a script that looks at no argument does or removes is not this tree's."""
    return shutil.copytree(TOOLS, tmp_path / "tools", ignore=shutil.ignore_patterns("node_modules", "__pycache__"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_tells_how_it_is_used_and_refuses_what_it_does_not_know(tools: Path, command: str) -> None:
    kept = tools.parent / ".venv"
    kept.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "VENV"}
    environment["PYTHONPATH"] = f"{TOOLS.parent}"

    def called(argument: str) -> subprocess.CompletedProcess[str]:
        line = [str(tools / command), argument]
        first = (tools / command).read_text().partition("\n")[0]
        line = [sys.executable, *line] if "python" in first else line
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)

    helped = called("--help")
    assert helped.returncode == 0, helped.stderr
    assert len(helped.stdout) > 40
    refused = called("--nonsense")
    assert refused.returncode in {2, 64}, refused.stdout
    assert "--nonsense" in refused.stderr
    assert kept.is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_tells_how_it_is_used(script: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
