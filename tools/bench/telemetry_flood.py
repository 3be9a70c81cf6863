#!/usr/bin/env python3
"""How many telemetry packets a second Weatherlight takes, stores and ingests, beside what raw grpcio streaming carries.

Senders stream packets as fast as they are taken, each acknowledged when it is on the disk. CRITICAL ones go between
them every few milliseconds, and are timed until they are acknowledged and until a subscriber has them. Nothing may be
lost: what senders sent, what Weatherlight acknowledged and what Nissa counted must be one number. The raw server does
nothing but parse what it is sent: one packet a message, then the same batches.

Processor seconds of each process are told too: on a machine that others use they say more than the wall.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import grpc

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import BackPressure, EsperError
from esper.core.process.child import child_command
from esper.core.security.keys import Keyring, new_secret
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import (
    MessagePriority,
    PublishTelemetryRequest,
    SubscribeRequest,
    TelemetryLevel,
    TelemetryPacket,
)
from esper.rpc.auth import service_metadata
from esper.rpc.clients import WeatherlightClient, channel
from esper.rpc.clients.health import wait_serving
from esper.tolaria.record.ending.summary import quantile
from tools.harness.faults.server import free_port

LOSS = MetricSpec("bench.loss", "nats", "A loss.", ("layer",))
ALARM = EventSpec("bench_alarm", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "An alarm.")
CALL_S = 1.0
"""How long one stream of batches lasts: its answer counts them."""
TIMEOUT_S = 60.0
RAW_METHOD = "/bench/Stream"
DRAIN_S = 300.0
_DIRECT = build_opener(ProxyHandler({}))


def client(endpoint: str, secret: str, service: str = "tolaria") -> WeatherlightClient:
    return WeatherlightClient(channel(endpoint), metadata=service_metadata(Keyring.from_secret(secret), service))


class Batches:
    """Batches of packets, each packet with an id of its own; making one costs little beside taking it."""

    def __init__(self, size: int, metrics: int) -> None:
        measured = [metric(LOSS, 0.5, layer=str(number)) for number in range(metrics)]
        self._request = PublishTelemetryRequest(dropped=0)
        self._request.packets.extend(
            build_packet("bench", SYSTEM_CLOCK, metrics=measured, run="r") for _ in range(size)
        )
        self._name, self.sent = f"bench-{os.getpid()}-{time.monotonic_ns()}", 0

    def next(self) -> PublishTelemetryRequest:
        for packet in self._request.packets:
            packet.packet_id = f"{self._name}-{self.sent}"
            packet.time.GetCurrentTime()
            self.sent += 1
        return self._request

    def during(self, seconds: float, kept: list[bytes] | None = None) -> Iterator[PublishTelemetryRequest]:
        """For so long; `kept` gets the bytes of each, so that it can be sent again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            request = self.next()
            if kept is not None:
                kept.append(request.SerializeToString())
            yield request


def send(endpoint: str, secret: str, size: int, metrics: int, begin: Event, stop: Event, told: Connection) -> None:
    """Stream batches until it is stopped; tells what was sent, acknowledged and held back."""
    line, batches = client(endpoint, secret), Batches(size, metrics)
    accepted = held_back = 0
    begin.wait()
    began = time.monotonic()
    while not stop.is_set():
        kept: list[bytes] = []
        given: Iterator[PublishTelemetryRequest] = batches.during(CALL_S, kept)
        while True:
            try:
                answer = line.publish_telemetry(given, timeout_s=TIMEOUT_S)
                accepted += answer.accepted + answer.duplicates
                if answer.HasField("back_pressure"):
                    held_back += 1
                    time.sleep(answer.back_pressure.ToNanoseconds() / 1e9)
                break
            except BackPressure:
                held_back += 1
                time.sleep(0.2)
                given = map(PublishTelemetryRequest.FromString, list(kept))
    took_s = time.monotonic() - began
    told.send(
        {
            "sent": batches.sent,
            "accepted": accepted,
            "held_back": held_back,
            "took_s": took_s,
            "cpu_s": time.process_time(),
        }
    )


class Critical:
    """CRITICAL packets, one every so often: when each was sent, acknowledged and heard (seconds)."""

    def __init__(self, endpoint: str, secret: str, every_s: float) -> None:
        self.sent: dict[str, float] = {}
        self.acknowledged: dict[str, float] = {}
        self.heard: dict[str, float] = {}
        self._line, self._every_s = client(endpoint, secret, "tamiyo"), every_s
        self._ended = threading.Event()
        threading.Thread(target=self._listen, args=(client(endpoint, secret, "operator"),), daemon=True).start()

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            packet = build_packet("tamiyo", SYSTEM_CLOCK, events=[event(ALARM, SYSTEM_CLOCK)])
            request = PublishTelemetryRequest(packets=[packet], dropped=0)
            self.sent[packet.packet_id] = began = time.perf_counter()
            self._line.publish_telemetry(iter([request]), timeout_s=TIMEOUT_S)
            self.acknowledged[packet.packet_id] = time.perf_counter()
            time.sleep(max(0.0, began + self._every_s - time.perf_counter()))
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.heard) < len(self.sent) and time.monotonic() < deadline:
            time.sleep(0.05)

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {"critical_sent": len(self.sent), "critical_lost": len(self.sent) - len(self.heard)}
        for name, times in (("acknowledged", self.acknowledged), ("heard", self.heard)):
            waits = [(at - self.sent[packet_id]) * 1e3 for packet_id, at in times.items()]
            for share in (0.5, 0.99):
                found[f"critical_{name}_p{round(100 * share)}_ms"] = round(quantile(waits, share), 1)
            found[f"critical_{name}_max_ms"] = round(max(waits, default=0.0), 1)
        return found

    def _listen(self, line: WeatherlightClient) -> None:
        request = SubscribeRequest(min_priority=MessagePriority.MESSAGE_PRIORITY_CRITICAL, sources=["tamiyo"])
        try:
            for response in line.subscribe(request, timeout_s=3600.0):
                self.heard.setdefault(response.packet.packet_id, time.perf_counter())
        except EsperError:
            pass  # the end


def serve_raw(endpoint: str, ready: Event) -> None:
    """A grpcio server that parses what it is sent and does nothing else."""

    async def packets(requests: Any, context: Any) -> bytes:
        count = 0
        async for _ in requests:
            count += 1
        return str(count).encode()

    async def run() -> None:
        server = grpc.aio.server()
        kinds = {"Packets": TelemetryPacket, "Batches": PublishTelemetryRequest}
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(packets, kind.FromString, lambda answer: answer)
            for name, kind in kinds.items()
        }
        server.add_registered_method_handlers("bench", handlers)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench", handlers)])
        server.add_insecure_port(endpoint)
        await server.start()
        ready.set()
        await server.wait_for_termination()

    asyncio.run(run())


def raw(context: Any, directory: Path, size: int, metrics: int, seconds: float) -> dict[str, float]:
    """Packets a second that a bare stream carries, one a message and in batches."""
    endpoint, ready = f"unix:{directory}/raw.sock", context.Event()
    server = context.Process(target=serve_raw, args=(endpoint, ready))
    server.start()
    try:
        ready.wait(TIMEOUT_S)
        found = {}
        for name in ("Packets", "Batches"):
            batches, line = Batches(size, metrics), grpc.insecure_channel(endpoint)
            given = batches.during(seconds)
            requests = given if name == "Batches" else (packet for request in given for packet in request.packets)
            call = line.stream_unary(
                f"/bench/{name}", request_serializer=lambda r: r.SerializeToString(), response_deserializer=bytes
            )
            began = time.monotonic()
            count = int(call(requests, timeout=TIMEOUT_S)) * (size if name == "Batches" else 1)
            found[f"raw_{name.lower()}_per_s"] = round(count / (time.monotonic() - began))
            line.close()
        return found
    finally:
        server.kill()


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ingested(place: str) -> int:
    """Packets of the senders that Nissa has counted."""
    text = _DIRECT.open(f"http://{place}/metrics", timeout=TIMEOUT_S).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("esper_telemetry_packets_total{")]
    return sum(round(float(line.rpartition(" ")[2])) for line in lines if 'source="bench"' in line)


def flood(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = raw(context, directory, options.batch, options.metrics, options.raw_seconds)
    secret, endpoint, place = new_secret(), f"unix:{directory}/weatherlight.sock", f"127.0.0.1:{free_port()}"
    words = ("--listen", endpoint, "--state-dir", str(directory / "state"), "--metrics-listen", place)
    environment = {**os.environ, "ESPER_LEYLINE_SECRET": secret}
    command = [*child_command("esper.weatherlight.server"), *words, "--log-level", "error"]
    service = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    begin, stop = context.Event(), context.Event()
    pipes = [context.Pipe() for _ in range(options.senders)]
    senders = [
        context.Process(target=send, args=(endpoint, secret, options.batch, options.metrics, begin, stop, inner))
        for _, inner in pipes
    ]
    try:
        with channel(endpoint) as link:
            wait_serving(link, timeout_s=TIMEOUT_S)
        for sender in senders:
            sender.start()
        critical = Critical(endpoint, secret, options.critical_every_ms / 1e3)
        time.sleep(2.0)
        before_cpu = cpu_s(service.pid)
        memory: list[float] = []
        watching = threading.Thread(target=_watch, args=(service.pid, stop, memory), daemon=True)
        begin.set()
        watching.start()
        critical.run(options.seconds)
        stop.set()
        told = [outer.recv() for outer, _ in pipes]
        took_s = max(each["took_s"] for each in told)
        ended = time.monotonic()
        sent, accepted = (sum(each[key] for each in told) for key in ("sent", "accepted"))
        deadline = time.monotonic() + DRAIN_S
        while (counted := ingested(place)) < accepted and time.monotonic() < deadline:
            time.sleep(0.2)
        drained_s = time.monotonic() - ended
        spent = cpu_s(service.pid) - before_cpu
    finally:
        for sender in senders:
            sender.kill()
        service.terminate()
        service.wait(TIMEOUT_S)
    later = memory[len(memory) // 3 :]
    return {
        **found,
        "packets_per_s": round(accepted / took_s),
        "share_of_raw_packets": round(accepted / took_s / found["raw_packets_per_s"], 2),
        "sent": sent,
        "acknowledged": accepted,
        "ingested": counted,
        "lost": sent - counted,
        "held_back": sum(each["held_back"] for each in told),
        "drained_s": round(drained_s, 1),
        "weatherlight_cpu_us_per_packet": round(spent / max(1, accepted) * 1e6, 1),
        "senders_cpu_us_per_packet": round(sum(each["cpu_s"] for each in told) / max(1, accepted) * 1e6, 1),
        "rss_mb_after_a_third": round(later[0]) if later else None,
        "rss_mb_most": round(max(memory, default=0.0)),
        "load_average": round(os.getloadavg()[0], 1),
        "processors": len(os.sched_getaffinity(0)),
        **critical.figures(),
    }


def _watch(pid: int, stop: Event, memory: list[float]) -> None:
    while not stop.is_set():
        memory.append(rss_mb(pid))
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--raw-seconds", type=float, default=5.0, help="how long the raw streams last, each (5)")
    parser.add_argument("--senders", type=int, default=1, help="processes that send (1)")
    parser.add_argument("--batch", type=int, default=256, help="packets of a message (256, as a service's sender has)")
    parser.add_argument("--metrics", type=int, default=1, help="metrics of a packet (1)")
    parser.add_argument("--critical-every-ms", type=float, default=20.0, help="a CRITICAL packet every so often (20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="esper-") as folder:
        result = flood(options, Path(folder))
    print(json.dumps(result) if options.json else "\n".join(f"{key:32} {value}" for key, value in result.items()))
    return 1 if result["lost"] or result["critical_lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
