"""A small language model keeps a stack by evidence, and is ahead of its host at equal total cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.tools.experiments.loading import FOLDER


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_grown_network_is_ahead_of_its_host_at_equal_cost(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run_plan.py"), "stack_pytext", "--seeds", "1", "--json"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True)
    grown, host = json.loads(done.stdout)["arms"]
    assert (grown["arm"], host["arm"]) == ("grown", "host")
    assert grown["kept"] == 1
    assert host["training_macs"] == pytest.approx(grown["training_macs"], rel=1e-3)
    assert grown["test_loss"] < host["test_loss"]
