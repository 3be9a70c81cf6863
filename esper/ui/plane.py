"""What the control plane of a run says now: its mode, services, packets and alerts, asked over the run's own line.

A page is asked for every second and a plane may be slow: a thread asks, and whoever looks gets the last answer with
its age. A plane that can't be asked is told as that, with the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.core.clock import utc_text
from esper.core.enums import short_name
from esper.core.errors import EsperError
from esper.core.security.keys import Keyring
from esper.core.security.run_line import LINE, read_line
from esper.leyline import (
    EmergencyLevel,
    HealthStatus,
    ServiceStatus,
    SubscribeRequest,
    SystemMode,
    TelemetryPacket,
    WeatherlightServiceGetStatusRequest,
    WeatherlightServiceGetStatusResponse,
)
from esper.nissa.metrics import ALERT_CLEARED, ALERT_RAISED

if TYPE_CHECKING:
    from esper.rpc.clients.sync import WeatherlightClient

ASK_EVERY_S = 2.0
TIMEOUT_S = 2.0
ALERTS_FOR_S = 3600.0  # a subscription is opened anew after this long
IDLE_S = 30.0
"""Nobody has looked for this long: nothing is asked until somebody does."""
NOT_UNDER_WAY = "no control plane can be asked: the run is over, has not begun, or never grows"


class PlaneWatch:
    """Asks the Weatherlight of one run while somebody looks."""

    def __init__(self, run_dir: Path, keyring: Callable[[], Keyring]) -> None:
        self._run_dir = run_dir
        self._keyring = keyring
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {"error": "it is being asked"}
        self._answered_at = time.monotonic()
        self._looked_at = 0.0
        self._alerts: dict[tuple[str, str], dict[str, Any]] = {}
        self._threads: dict[str, threading.Thread] = {}

    def look(self) -> dict[str, Any]:
        """The last answer and its age in seconds; `error` says why there is none."""
        if not (self._run_dir / LINE).exists():
            return {"error": NOT_UNDER_WAY, "age_s": 0.0}
        with self._lock:
            self._looked_at = time.monotonic()
            self._keep("status", self._ask_on)
            self._keep("alerts", self._hear_on)
            age_s = time.monotonic() - self._answered_at
            alerts = [self._alerts[key] for key in sorted(self._alerts)]
            return {**self._answer, "alerts": alerts, "age_s": round(age_s, 1)}

    def _keep(self, name: str, work: Callable[[], None]) -> None:
        thread = self._threads.get(name)
        if thread is None or not thread.is_alive():
            self._threads[name] = threading.Thread(target=work, name=f"plane-{name}", daemon=True)
            self._threads[name].start()

    @property
    def _is_wanted(self) -> bool:
        return time.monotonic() - self._looked_at < IDLE_S and (self._run_dir / LINE).exists()

    def _ask_on(self) -> None:
        while self._is_wanted:
            try:
                answer = self._with_client(
                    lambda client: status_fields(
                        client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S)
                    )
                )
            except (EsperError, OSError) as error:
                answer = {"error": str(error)}
            with self._lock:
                self._answer, self._answered_at = answer, time.monotonic()
            time.sleep(ASK_EVERY_S)

    def _hear_on(self) -> None:
        """Alerts are Nissa's telemetry: those that the bus still keeps are told from their beginning."""
        while self._is_wanted:
            try:
                self._with_client(self._hear)
            except (EsperError, OSError):
                time.sleep(ASK_EVERY_S)  # the other thread tells why it can't be asked

    def _hear(self, client: WeatherlightClient) -> None:
        request = SubscribeRequest(sources=["nissa"], after_sequence=0)
        for told in client.subscribe(request, timeout_s=ALERTS_FOR_S):
            with self._lock:
                note_alerts(self._alerts, told.packet)

    def _with_client(self, work: Callable[[WeatherlightClient], Any]) -> Any:
        from esper.rpc.auth import service_metadata  # grpc, which nobody needs for a run that is over
        from esper.rpc.clients import channel
        from esper.rpc.clients.sync import WeatherlightClient

        line = read_line(self._run_dir)
        peer = line.peers["weatherlight"]
        with channel(peer.endpoint, None) as link:
            metadata = service_metadata(self._keyring(), "operator")
            return work(WeatherlightClient(link, token=peer.token, metadata=metadata))


def status_fields(status: WeatherlightServiceGetStatusResponse) -> dict[str, Any]:
    """Weatherlight's answer as the page shows it."""
    return {
        "error": None,
        "mode": short_name(SystemMode, status.mode.mode),
        "cause": status.mode.cause,
        "emergencies": [
            {
                "id": signal.emergency_id,
                "level": short_name(EmergencyLevel, signal.level),
                "detail": signal.detail,
                "origin": signal.origin,
                "run": signal.training_run_id,
            }
            for signal in status.mode.open_emergencies
        ],
        "services": [_service(service) for service in status.services],
        "packets": status.packets,
        "critical": status.critical,
        "dropped": status.dropped,
    }


def _service(service: ServiceStatus) -> dict[str, Any]:
    return {
        "service": service.service,
        "instance": service.instance,
        "health": short_name(HealthStatus, service.health),
        "is_lost": service.is_lost,
        "last_seen": utc_text(service.last_seen.ToNanoseconds()),
        "summary": service.summary,
        "run": service.training_run_id,
    }


def note_alerts(alerts: dict[tuple[str, str], dict[str, Any]], packet: TelemetryPacket) -> None:
    """Alerts that are raised now, by rule and source."""
    for event in packet.events:
        if event.name not in (ALERT_RAISED.name, ALERT_CLEARED.name):
            continue
        facts = {each.key: getattr(each, each.WhichOneof("value") or "text") for each in event.attributes}
        key = (str(facts.get("rule")), str(facts.get("source")))
        if event.name == ALERT_CLEARED.name:
            alerts.pop(key, None)
        else:
            alerts[key] = {**facts, "detail": event.message, "run": packet.training_run_id}
            alerts[key]["since"] = utc_text(event.time.ToNanoseconds())
