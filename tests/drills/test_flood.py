"""A flood of telemetry loses nothing, and CRITICAL packets come through it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


def test_what_a_flood_of_telemetry_brings_is_acknowledged_stored_and_counted() -> None:
    command = [sys.executable, "tools/bench/telemetry_flood.py", "--seconds", "5", "--raw-seconds", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == os.EX_OK, done.stderr
    found = json.loads(done.stdout)
    assert found["sent"] == found["acknowledged"] == found["ingested"] > 0
    assert (found["lost"], found["critical_lost"]) == (0, 0)
