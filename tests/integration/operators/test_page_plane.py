"""What the page tells of a real Weatherlight: its mode, the services that live, and an alert while it is raised."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.run_line import LINE, Peer, RunLine, write_line
from esper.core.telemetry import MetricSpec, build_packet, metric
from esper.nissa.rules import RULES
from esper.rpc.reporting.telemetry import TelemetrySender
from esper.tolaria.plane.services import Services, ServicesConfig
from esper.ui.plane import PlaneWatch

WAIT_S = 60.0


def until(holds: Callable[[dict[str, Any]], bool], watch: PlaneWatch) -> dict[str, Any]:
    """The first answer of which that holds; the last one where none does in time."""
    end = time.monotonic() + WAIT_S
    while not holds(told := watch.look()) and time.monotonic() < end:
        time.sleep(0.1)
    return told


def test_mode_services_and_alerts_are_those_of_the_plane_that_runs(tmp_path: Path) -> None:
    rule = next(rule for rule in RULES if rule.packets == 1 and rule.past(1e9, rule.threshold))
    measured = MetricSpec(rule.metric, "count", "What the rule looks at.")
    secret = new_secret()
    keyring = Keyring.from_secret(secret)
    settings = ServicesConfig(state_dir=tmp_path / "state", names=("weatherlight",))
    with Services(settings, secret, lambda name, message: None) as services:
        endpoint = services.endpoints["weatherlight"]
        write_line(tmp_path, RunLine(run_id="r", peers={"weatherlight": Peer(endpoint=endpoint)}))
        sender = TelemetrySender(endpoint, keyring, "tolaria")
        try:
            watch = PlaneWatch(tmp_path, lambda: keyring)
            sender.send(build_packet("tolaria", SYSTEM_CLOCK, metrics=[metric(measured, 1e9)], run="r"))
            told = until(lambda told: bool(told.get("alerts")) and bool(told.get("services")), watch)
            assert told["error"] is None
            assert told["mode"] == "NORMAL"
            assert [service["service"] for service in told["services"]] == ["tolaria"]
            assert [(alert["rule"], alert["source"], alert["run"]) for alert in told["alerts"]] == [
                (rule.name, "tolaria", "r")
            ]
            sender.send(build_packet("tolaria", SYSTEM_CLOCK, metrics=[metric(measured, 0.0)], run="r"))
            assert until(lambda told: not told["alerts"], watch)["alerts"] == []
        finally:
            sender.close(5.0)
            (tmp_path / LINE).unlink()  # which ends what asks
