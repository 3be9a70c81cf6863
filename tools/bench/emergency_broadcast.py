#!/usr/bin/env python3
"""How long an emergency takes from being raised to every open run, while NORMAL telemetry saturates Weatherlight.

Weatherlight and the load are processes of their own; the runs' lines are threads of this one. Nothing may be lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import EsperError, ServiceUnavailable
from esper.core.process.child import child_command
from esper.core.security.keys import Keyring, new_secret
from esper.core.telemetry import MetricSpec, build_packet, metric
from esper.leyline import EmergencyLevel, PublishTelemetryRequest, WatchModeRequest
from esper.rpc.auth import service_metadata
from esper.rpc.clients import WeatherlightClient, channel
from esper.rpc.clients.health import wait_serving
from esper.rpc.reporting.alarm import Alarm
from esper.tolaria.record.ending.summary import quantile

LOSS = MetricSpec("bench.loss", "nats", "A loss.")
BATCH = 64
TIMEOUT_S = 30.0


def client(endpoint: str, keyring: Keyring) -> WeatherlightClient:
    return WeatherlightClient(channel(endpoint), metadata=service_metadata(keyring, "tolaria"))


def saturate(endpoint: str, secret: str, begun: Event, stop: Event, sent: multiprocessing.Queue[int]) -> None:
    """Send NORMAL telemetry as fast as it is taken."""
    line, count = client(endpoint, Keyring.from_secret(secret)), 0
    while not stop.is_set():
        packets = [build_packet("bench", SYSTEM_CLOCK, metrics=[metric(LOSS, 0.5)]) for _ in range(BATCH)]
        try:
            request = PublishTelemetryRequest(packets=packets, dropped=0)
            count += line.publish_telemetry(iter([request]), timeout_s=TIMEOUT_S).accepted
            begun.set()
        except EsperError:
            time.sleep(0.01)  # the lane is full: that is what saturation means
    sent.put(count)


class Run:
    """One open run's line to the plane's mode."""

    def __init__(self, endpoint: str, keyring: Keyring) -> None:
        self.heard: dict[str, float] = {}
        self._line = client(endpoint, keyring)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        with suppress(ServiceUnavailable):  # the end
            for response in self._line.watch_mode(WatchModeRequest(), timeout_s=3600.0):
                now = time.perf_counter()
                for signal in response.mode.open_emergencies:
                    self.heard.setdefault(signal.detail, now)


def measure(endpoint: str, keyring: Keyring, directory: Path, runs: int, count: int) -> list[float]:
    """Milliseconds from raising each emergency to each run's hearing of it."""
    lines = [Run(endpoint, keyring) for _ in range(runs)]
    alarm = Alarm(endpoint, keyring, SYSTEM_CLOCK, "tolaria", directory)
    time.sleep(1.0)
    raised: dict[str, float] = {}
    for number in range(count):
        raised[str(number)] = time.perf_counter()
        alarm.raise_emergency(EmergencyLevel.EMERGENCY_LEVEL_L1_NOTICE, "bench", str(number))
        time.sleep(0.05)
    until = time.monotonic() + TIMEOUT_S
    while any(len(line.heard) < count for line in lines) and time.monotonic() < until:
        time.sleep(0.05)
    alarm.close(TIMEOUT_S)
    lost = sum(count - len(line.heard) for line in lines)
    if lost:
        raise SystemExit(f"{lost} of {count * runs} hearings are missing")
    return [(line.heard[name] - began) * 1e3 for line in lines for name, began in raised.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="open runs that listen (8)")
    parser.add_argument("--emergencies", type=int, default=100, help="emergencies raised, one each 50 ms (100)")
    parser.add_argument("--senders", type=int, default=1, help="processes that send telemetry (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    logging.disable()
    secret = new_secret()
    keyring = Keyring.from_secret(secret)
    with tempfile.TemporaryDirectory(prefix="esper-") as name:
        directory = Path(name)
        endpoint = f"unix:{directory}/weatherlight.sock"
        places = ("--listen", endpoint, "--state-dir", str(directory / "state"))
        command = [*child_command("esper.weatherlight.server"), *places, "--log-level", "error"]
        environment = {**os.environ, "ESPER_LEYLINE_SECRET": secret}
        service = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        context = multiprocessing.get_context("spawn")
        begun, stop, sent = context.Event(), context.Event(), context.Queue()
        senders = [
            context.Process(target=saturate, args=(endpoint, secret, begun, stop, sent)) for _ in range(options.senders)
        ]
        try:
            with channel(endpoint) as link:
                wait_serving(link, timeout_s=TIMEOUT_S)
            for sender in senders:
                sender.start()
            if not begun.wait(TIMEOUT_S):
                raise SystemExit("no sender has begun")
            began = time.monotonic()
            found = measure(endpoint, keyring, directory / "alarms", options.runs, options.emergencies)
            stop.set()
            packets = sum(sent.get(timeout=TIMEOUT_S) for _ in senders)
            took_s = time.monotonic() - began
        finally:
            for sender in senders:
                sender.kill()
            service.terminate()
            service.wait(TIMEOUT_S)
    result = {
        "runs": options.runs,
        "emergencies": options.emergencies,
        "heard": len(found),
        "telemetry_packets_per_s": round(packets / took_s),
        **{f"p{round(100 * share)}_ms": round(quantile(found, share), 2) for share in (0.5, 0.95, 0.99)},
        "max_ms": round(max(found), 2),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:24} {value}" for key, value in result.items()))


if __name__ == "__main__":
    sys.exit(main())
