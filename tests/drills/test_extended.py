"""A finished run that is given more epochs grows on: its seeds, its ledger and its services' state stay its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.drills.launching import environment, events, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_finished_run_grows_on_when_it_is_extended(tmp_path: Path) -> None:
    first = train(tmp_path, "--epochs", "20", "--grow", "always", "--max-culls", "9")
    longer = train(tmp_path, "--resume", "--epochs", "50")
    assert first["growth"]["germinated"] > 0
    assert longer["growth"]["germinated"] > first["growth"]["germinated"]
    before = {seed["seed_id"]: seed["fate"] for seed in first["seeds"]}
    assert before.items() <= {seed["seed_id"]: seed["fate"] for seed in longer["seeds"]}.items()
    assert longer["final_parameters"] >= first["final_parameters"]
    assert longer["reproducible_cause"] == f"extended from 20 to 50 epochs at step {first['steps']}"
    assert not [event for event in events(tmp_path, "directive") if not event["succeeded"]]
    verify = [sys.executable, "-m", "esper.cli.main", "audit", "verify", str(tmp_path)]
    assert subprocess.run(verify, env=environment(), capture_output=True, check=False).returncode == 0
