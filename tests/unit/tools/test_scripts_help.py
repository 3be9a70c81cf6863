"""Every benchmark and experiment starts from any folder, with nothing set for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "tools"
FOREIGN = {"beside_gromo.py"}  # needs a package that is installed for it alone
SCRIPTS = [
    path
    for room in ("bench", "experiments")
    for path in sorted((TOOLS / room).rglob("*.py"))
    if path.read_text().startswith("#!") and path.name not in FOREIGN
]


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
