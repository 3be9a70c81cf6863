"""Each drill's alert rises in a real Prometheus and clears; a fault that isn't there, or stays, fails its drill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from esper.cli.checks.drill import ALARMS
from esper.cli.main import main
from tests.drilled import drilled as parameters
from tools.harness.drills.alarms import drilled
from tools.harness.drills.plane import DrilledPlane
from tools.harness.drills.services import emergency
from tools.harness.drills.table import BY_NAME

pytestmark = pytest.mark.timeout(600)
QUICK = "emergency"


def test_the_command_line_names_every_drill() -> None:
    assert set(ALARMS) == set(BY_NAME)


@pytest.mark.parametrize("name", parameters(ALARMS, lambda name: name == QUICK))
def test_the_alert_rises_and_clears(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["drill", name, "--json"])
    said = capsys.readouterr()
    if code == os.EX_CONFIG and "apt-get install prometheus" in said.err:
        pytest.skip(said.err.strip())
    found = json.loads(said.out)["alarms"]
    assert [alarm["alert"] for alarm in found] == list(BY_NAME[name].alerts)
    assert all(alarm["fired_s"] is not None and alarm["cleared_s"] is not None for alarm in found), (found, said.err)
    assert code == os.EX_OK


@pytest.mark.slow
def test_a_fault_that_never_comes_and_one_that_stays_fail_the_drill() -> None:
    def quiet(plane: DrilledPlane) -> Iterator[None]:
        yield
        yield
        yield

    def lasting(plane: DrilledPlane) -> Iterator[None]:
        course = emergency(plane)
        yield next(course)
        yield next(course)
        yield

    for course, has_fired in ((quiet, False), (lasting, True)):
        (alarm,) = drilled(replace(BY_NAME[QUICK], course=course), speed=10.0, timeout_s=8.0)
        assert (alarm.fired_s is not None, alarm.cleared_s) == (has_fired, None)
        assert not alarm.is_passed


@pytest.mark.slow
@pytest.mark.parametrize("words", [("wal-restore",), ("wal-soak", "--seconds", "20")])
def test_logs_survive_their_drills(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", *words]) == os.EX_OK, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("bus", ["sqlite", "redis"])
def test_what_is_acknowledged_is_handled_once_under_fire(bus: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["drill", "fire", "--seconds", "30", "--bus", bus, "--json"])
    said = capsys.readouterr()
    if code == os.EX_CONFIG and "redis-server" in said.err:
        pytest.skip(said.err.strip())
    assert code == os.EX_OK, said.err
    (found,) = json.loads(said.out)["buses"]
    assert found["verdict"]["lost"] == 0
    assert found["verdict"]["redelivered"] > 0
    assert all(count >= 1 for count in found["kills"].values())
