"""The walls between packages hold, and each of them is seen to fall when someone climbs over it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VIOLATIONS = {
    "floors": ("esper/core/clock.py", "from esper.urza import catalog"),
    "a new package without a place": ("esper/newcomer/__init__.py", ""),
    "rooms of the trainer": ("esper/tolaria/task/feeds/loader.py", "from esper.tolaria.loop import step"),
    "rooms of the seed executor": (
        "esper/kasmina/executor/slots/paths.py",
        "from esper.kasmina.executor.graft import arm",
    ),
    "no circles": ("esper/tolaria/loop/arm.py", "from esper.tolaria.loop import step"),
    "the trainer and the policy meet only in contracts": (
        "esper/tolaria/task/objective/task.py",
        "from esper.tamiyo import policy",
    ),
    "the control plane starts without torch": ("esper/oona/bus.py", "import torch"),
    "core does not reach grpc": ("esper/core/clock.py", "import grpc"),
    "only rpc imports grpc": ("esper/weatherlight/supervision/mode.py", "import grpc"),
    "kernels stand on errors alone": ("esper/kernels/_blend.py", "from esper.leyline import SeedStage"),
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("wall", VIOLATIONS)
def test_a_wall_that_is_climbed_is_reported(wall: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "esper", tmp_path / "esper", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    name, line = VIOLATIONS[wall]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode != 0, f"{wall}: {result.stdout[-500:]}"


@pytest.mark.slow
def test_the_walls_stand() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout[-3000:]
