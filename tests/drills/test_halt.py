"""An L4 that an operator orders of Kasmina: every run of the plane ends with 69, and goes on as if it hadn't."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.launching import LAUNCHER, NARROW, TIMEOUT_S, environment, wait_for_step
from tests.integration.operators.test_up import Up
from tests.unit.tolaria.plane.test_services import working_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SEEDS = (1, 2)
ORDER = {"level": "EMERGENCY_LEVEL_L4_HALT", "rationale": "the data is wrong"}


class Plane:
    """`esper up`, and what people run on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.up = Up(directory / "plane")
        self.endpoints = self.up.wait_up()
        self._environment = environment() | {
            "ESPER_LEYLINE_SECRET": (directory / "plane" / "secret").read_text().strip()
        }

    def run_dir(self, name: str, seed: int) -> Path:
        return self._directory / f"{name}-{seed}"

    def started(self, name: str, *flags: str) -> dict[int, subprocess.Popen[str]]:
        """A run of each seed."""
        places = [word for service, endpoint in self.endpoints.items() for word in (f"--{service}", endpoint)]
        command = [*LAUNCHER, *NARROW, *places, "--epochs", "60", "--grow", "always", *flags]
        return {
            seed: subprocess.Popen(
                [*command, "--seed", str(seed), "--run-dir", str(self.run_dir(name, seed))],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment,
            )
            for seed in SEEDS
        }

    def digests(self, name: str) -> list[str]:
        """The weights that its runs ended with."""
        kept = [self.run_dir(name, seed) / "summary.json" for seed in SEEDS]
        return [json.loads(each.read_text())["weights_digest"] for each in kept]

    def esper(self, *words: str) -> str:
        command = [sys.executable, "-m", "esper.cli.main", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=self._environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    yield (plane := Plane(tmp_path))
    plane.up.end()
    for pid in working_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def ended(runs: dict[int, subprocess.Popen[str]], code: int) -> None:
    for process in runs.values():
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, output[-2000:]


def test_an_l4_ordered_of_kasmina_halts_every_run_and_each_goes_on_as_if_it_had_not(plane: Plane) -> None:
    ended(plane.started("calm"), 0)
    halted = plane.started("halted")
    for seed, process in halted.items():
        wait_for_step(process, plane.run_dir("halted", seed), 200)
    run_id = plane.run_dir("halted", SEEDS[0]).name
    order = {"command_id": "halt", "training_run_id": run_id, "generation": 1, "step": 0, "issued_by": "operator:me"}
    place = ["--at", plane.endpoints["kasmina"], "--run-id", run_id]
    plane.esper("call", "kasmina.ApplyCommand", json.dumps(order | {"emergency": ORDER}), *place)
    ended(halted, os.EX_UNAVAILABLE)
    assert plane.digests("halted") != plane.digests("calm")
    ended(plane.started("halted", "--resume"), os.EX_UNAVAILABLE)
    at = ["--weatherlight", plane.endpoints["weatherlight"]]
    assert "the plane is NORMAL" in plane.esper("emergency", "acknowledge", *at)
    ended(plane.started("halted", "--resume"), 0)
    assert plane.digests("halted") == plane.digests("calm")
