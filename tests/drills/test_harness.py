"""The harness passes where all is well, and doesn't where something was broken that it wasn't told of."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.task.prepare import Prepared
from tools.harness.faults.processes import kill, services_of
from tools.harness.live import live
from tools.harness.steady_train import result_of
from tools.harness.tamiyo_timeout import Freezer, configured
from tools.harness.workload import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EPOCHS, BATCH_SIZE, BREAKS_AT = 40, 4, 200


class Killer(Observer):
    """Observer that kills a service once."""

    def __init__(self, service: str) -> None:
        self._service: str | None = service
        self._run_dir = Path()

    def prepared(self, run: Prepared) -> None:
        self._run_dir = run.config.run_dir

    def on_boundary(self, boundary: Boundary) -> None:
        if self._service is not None and boundary.step >= BREAKS_AT:
            kill(services_of(self._run_dir)[self._service])
            self._service = None


def test_a_hundred_epochs_with_many_seeds_leave_nothing_behind(tmp_path: Path) -> None:
    assert main(["harness", "soak", "--output-dir", str(tmp_path)]) == os.EX_OK
    found = json.loads((tmp_path / "seed_soak_summary.json").read_text())
    assert found["failures"] == []
    assert found["metrics"]["germinated"] >= 4
    assert found["metrics"]["kept"] >= 1


@pytest.mark.parametrize("service", ["tamiyo", "kasmina"])
def test_a_service_that_died_unasked_fails_the_scenario(service: str) -> None:
    killer = Killer(service)
    configure = partial(settings, epochs=EPOCHS, batch_size=BATCH_SIZE, device="cpu")
    failures = result_of(live(configure, killer, shown=(killer.prepared,))).failures
    assert any(line.startswith("unexpected") for line in failures), failures
    assert any("answers were missing" in line for line in failures), failures


def test_late_answers_that_nobody_asked_for_fail_the_scenario() -> None:
    freezer = Freezer(every=2)
    options = argparse.Namespace(epochs=EPOCHS, batch_size=BATCH_SIZE, device="cpu")
    failures = result_of(live(partial(configured, options=options), freezer, shown=(freezer.prepared,))).failures
    assert any("tolaria.tamiyo_timeout" in line for line in failures), failures
