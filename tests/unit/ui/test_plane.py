"""What is told of a control plane: its answer in words, alerts that are raised now, and why it can't be asked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from esper.core.clock import SYSTEM_CLOCK, timestamp
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.run_line import Peer, RunLine, write_line
from esper.core.telemetry import build_packet, event
from esper.leyline import (
    EmergencyLevel,
    EmergencySignal,
    HealthStatus,
    ModeUpdate,
    ServiceStatus,
    SystemMode,
    WeatherlightServiceGetStatusResponse,
)
from esper.nissa.metrics import ALERT_CLEARED, ALERT_RAISED
from esper.ui.plane import NOT_UNDER_WAY, PlaneWatch, note_alerts, status_fields


def watch(run_dir: Path) -> PlaneWatch:
    return PlaneWatch(run_dir, lambda: Keyring.from_secret(new_secret()))


def test_weatherlights_answer_is_told_in_words() -> None:
    signal = EmergencySignal(
        emergency_id="e1", level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT, detail="NaN", origin="operator:ann"
    )
    mode = ModeUpdate(mode=SystemMode.SYSTEM_MODE_EMERGENCY, cause="an emergency", open_emergencies=[signal])
    service = ServiceStatus(
        service="tamiyo",
        instance="i",
        health=HealthStatus.HEALTH_STATUS_DEGRADED,
        last_seen=timestamp(10**9),
        is_lost=False,
        summary="slow",
    )
    told = status_fields(WeatherlightServiceGetStatusResponse(mode=mode, services=[service], packets=7, dropped=2))
    assert (told["mode"], told["packets"], told["dropped"]) == ("EMERGENCY", 7, 2)
    assert told["emergencies"][0]["level"] == "L4_HALT"
    assert told["services"][0]["health"] == "DEGRADED"
    assert told["services"][0]["last_seen"] == "1970-01-01T00:00:01+00:00"


def test_an_alert_stands_until_it_is_cleared() -> None:
    facts: dict[str, Any] = {"rule": "latency", "source": "tolaria", "value": 25.0}
    raised = event(ALERT_RAISED, SYSTEM_CLOCK, "slow", **facts, threshold=18.0, severity="page", routes="log")
    alerts: dict[tuple[str, str], dict[str, Any]] = {}
    note_alerts(alerts, build_packet("nissa", SYSTEM_CLOCK, events=[raised], run="r"))
    assert alerts["latency", "tolaria"]["value"] == 25.0
    assert alerts["latency", "tolaria"]["detail"] == "slow"
    note_alerts(alerts, build_packet("nissa", SYSTEM_CLOCK, events=[event(ALERT_CLEARED, SYSTEM_CLOCK, **facts)]))
    assert alerts == {}


def test_a_run_that_is_not_under_way_has_no_plane_to_ask(tmp_path: Path) -> None:
    assert watch(tmp_path).look()["error"] == NOT_UNDER_WAY


def test_a_plane_that_does_not_answer_is_told_with_the_reason(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path}/nobody.sock"
    write_line(tmp_path, RunLine(run_id="r", peers={"weatherlight": Peer(endpoint=endpoint)}))
    watched = watch(tmp_path)
    until = time.monotonic() + 30
    while (told := watched.look())["error"] == "it is being asked" and time.monotonic() < until:
        time.sleep(0.05)
    assert "nobody.sock" in told["error"]
    (tmp_path / "services" / "line.json").unlink()  # which ends what asks


def test_a_line_that_is_damaged_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "line.json").write_text("{")
    watched = watch(tmp_path)
    until = time.monotonic() + 30
    while (told := watched.look())["error"] == "it is being asked" and time.monotonic() < until:
        time.sleep(0.05)
    assert "can't be read" in told["error"]
    (tmp_path / "services" / "line.json").unlink()
