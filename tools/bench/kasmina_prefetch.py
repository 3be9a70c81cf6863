#!/usr/bin/env python3
"""How long a prefetch takes above what Urza's verification takes: request to ready, and on to attached at a boundary.

Weatherlight, with the bus and Urza, is a process of its own, as is Redis; Kasmina's prefetcher is in this one. Urza's
verification is delayed by a time that follows from the request's id, so that both sides know it and neither stamps
itself. Each backend runs twice: as it is run, and where nothing waits for a disk; the difference is the share of fsync.
Some prefetches are cancelled half-way; nothing may be left of them, and the counts must come out exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ConfigError
from esper.core.keys import Keyring, new_secret
from esper.kasmina.control.artifacts import ArtifactAccess, Breaker
from esper.kasmina.control.prefetch.lines import BusLine
from esper.kasmina.control.prefetch.prefetcher import CANCELED, READY, Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.leyline import Blueprint, KernelPrefetchRequest, WeatherlightServiceGetStatusRequest
from esper.rpc.auth import service_metadata
from esper.rpc.clients import channel
from esper.rpc.clients.aio import WeatherlightClient, aio_channel
from esper.rpc.clients.health import wait_serving
from esper.tolaria.record.summary import quantile
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog
from esper.urza.own.description import Described, read_description

START_S = 30.0
TARGET_MS = 3.0
WARM_UP = 30
RUN = "bench"
NO_DISK = Path("/dev/shm")
DESCRIPTION = """id = "bench.b0"
name = "b"
description = "d"
slots = ["residual.linear"]
factory = "b.py:build"
risk = 0.1
recommendation = "r"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """How long Urza's verification is made to take."""

    mean_ms: float
    jitter_ms: float

    def of(self, request_id: str) -> float:
        """Seconds for this request: a function of its id alone."""
        draws = random.Random(hashlib.sha256(request_id.encode()).digest())
        return max(0.0, draws.gauss(self.mean_ms, self.jitter_ms)) / 1e3


@dataclass(kw_only=True, slots=True)
class Arm:
    """One backend, in milliseconds; `above` is what a request took beyond its delay."""

    name: str
    above: list[float] = field(default_factory=list)
    to_ready: list[float] = field(default_factory=list)
    to_attached: list[float] = field(default_factory=list)
    bare_call: list[float] = field(default_factory=list)
    """A unary call of the same Weatherlight, made between the prefetches: what the machine gives at the time."""
    cpu_ms: float = 0.0
    """Processor time of both processes, for each prefetch."""
    counts: dict[str, int] = field(default_factory=dict)
    left_behind: int = 0

    def figures(self) -> dict[str, Any]:
        found = {"backend": self.name, "counts": self.counts, "left_behind": self.left_behind, "cpu_ms": self.cpu_ms}
        for name in ("above", "to_ready", "to_attached", "bare_call"):
            values = getattr(self, name)
            found[f"{name}_ms"] = {
                "p50": statistics.median(values),
                "p95": quantile(values, 0.95),
                "max": max(values),
                "mean": statistics.fmean(values),
            }
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Weatherlight's process."""

    endpoint: str
    pid: int

    def cpu_s(self) -> float:
        """Processor seconds that it has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Course:
    """The prefetches of one arm."""

    def __init__(self, served: Served, secret: str, library: Path, blueprints: Sequence[Blueprint], args: Any) -> None:
        keyring, endpoint = Keyring.from_secret(secret), served.endpoint
        self.served = served
        self.channel = aio_channel(endpoint, None)
        self.weatherlight = WeatherlightClient(self.channel, metadata=service_metadata(keyring, "tolaria"))
        self.access = ArtifactAccess(Catalog.builtin(), ArtifactStore(library), Breaker(name="artifacts"))
        self.prefetcher = Prefetcher(
            self.access,
            BusLine(endpoint, None, keyring, SYSTEM_CLOCK),
            Reporting(SYSTEM_CLOCK, lambda packet: None, self.access),
            SYSTEM_CLOCK,
        )
        self.catalog = Catalog.builtin().with_own(blueprints)
        self.blueprints = blueprints
        self.delay = Delay(mean_ms=args.ready_latency_ms, jitter_ms=args.jitter_ms)
        self.concurrency, self.cancelled, self.boundary_s = args.concurrency, args.cancel, args.boundary_ms / 1e3
        self.places = asyncio.Semaphore(args.concurrency)
        self.boundary = asyncio.Event()

    async def run(self, arm: Arm) -> None:
        ticking = asyncio.create_task(self._boundaries())
        try:
            first, rest = self.blueprints[:WARM_UP], self.blueprints[WARM_UP:]
            await asyncio.gather(*(self._one(each, Arm(name="warm-up")) for each in first))
            began_s = self.served.cpu_s() + time.process_time()
            calling = asyncio.create_task(self._bare_calls(arm))
            given_up = set(random.Random(1).sample(range(len(rest)), self.cancelled))
            await asyncio.gather(
                *(self._given_up(each) if i in given_up else self._one(each, arm) for i, each in enumerate(rest))
            )
            calling.cancel()
            arm.cpu_ms = (self.served.cpu_s() + time.process_time() - began_s) * 1e3 / len(rest)
            await asyncio.sleep(0.1)
            self._settle(arm)
        finally:
            ticking.cancel()
            await self.prefetcher.close()
            await self.channel.close()

    async def _bare_calls(self, arm: Arm) -> None:
        while True:
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            await self.weatherlight.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=START_S)
            arm.bare_call.append((time.perf_counter() - began) * 1e3)

    async def _one(self, blueprint: Blueprint, arm: Arm) -> None:
        async with self.places:
            asked = time.perf_counter()
            waiting = asyncio.create_task(self._ready(blueprint))
            await asyncio.sleep(0)
            request_id = self._request_of(blueprint)
            ended = await waiting
            ready = time.perf_counter()
            assert ended.status == READY, ended
            await self.boundary.wait()
            await self.prefetcher.chunks(blueprint.artifact.digest)
            self.prefetcher.attached(RUN, blueprint.blueprint_id)
            attached = time.perf_counter()
        arm.to_ready.append((ready - asked) * 1e3)
        arm.above.append((ready - asked - self.delay.of(request_id)) * 1e3)
        arm.to_attached.append((attached - asked) * 1e3)

    async def _given_up(self, blueprint: Blueprint) -> None:
        """Cancelled at a moment between its request and its answer."""
        async with self.places:
            waiting = asyncio.create_task(self._ready(blueprint))
            await asyncio.sleep(self.delay.mean_ms / 1e3 * random.Random(blueprint.blueprint_id).random() * 0.8)
            self.prefetcher.retire(RUN, blueprint.blueprint_id, "bench")
            ended = await waiting
            assert ended.status in (CANCELED, READY), ended

    async def _ready(self, blueprint: Blueprint) -> Any:
        name = blueprint.blueprint_id
        return await self.prefetcher.ready(RUN, self.catalog, name, seed_id=name)

    def _request_of(self, blueprint: Blueprint) -> str:
        wanted = blueprint.artifact.digest
        under_way = self.prefetcher._under_way.values()
        return next(each.request.request_id for each in under_way if each.request.digest == wanted)

    async def _boundaries(self) -> None:
        while True:
            await asyncio.sleep(self.boundary_s)
            self.boundary.set()
            self.boundary = asyncio.Event()

    def _settle(self, arm: Arm) -> None:
        """Every request is in one of its ends, and nothing is left of any."""
        requests = self.access.figures.requests
        arm.counts = dict(requests)
        ends = sum(requests[name] for name in ("ready", "error", "timeout", "canceled"))
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("prefetch-")]
        arm.left_behind = (
            requests["scheduled"] - ends + self.prefetcher.inflight + self.access.cache.locks + len(tasks)
            + self.access.worker.counts.pending
        )  # fmt: skip
        if arm.left_behind or requests["error"] or requests["timeout"]:
            raise SystemExit(f"{arm.name}: {arm.left_behind} left behind, counts {arm.counts}")


def serve(argv: Sequence[str]) -> int:
    """Weatherlight, whose Urza takes its time; in a process of its own."""
    from esper.urza import prefetch
    from esper.weatherlight import kernels, server

    delay = Delay(mean_ms=float(os.environ["BENCH_MEAN_MS"]), jitter_ms=float(os.environ["BENCH_JITTER_MS"]))

    def slowly(store: ArtifactStore, request: KernelPrefetchRequest) -> prefetch.Answer:
        due = time.perf_counter() + delay.of(request.request_id)
        told = prefetch.answer(store, request)
        time.sleep(max(0.0, due - time.perf_counter()))
        return told

    kernels.answer = slowly
    return server.main(argv)


def library_of(directory: Path, count: int) -> list[Blueprint]:
    """As many blueprints as there are requests: what is at hand already would not be asked for."""
    (directory / "b.py").write_text("def build(shape, parameters, weights):\n    raise NotImplementedError\n")
    (directory / "b.toml").write_text(DESCRIPTION)
    described, store, found = read_description(directory / "b.toml"), ArtifactStore(directory), []
    for number in range(count):
        named = Blueprint()
        named.CopyFrom(described.blueprint)
        named.blueprint_id = f"bench.b{number}"
        each = Described(**{**asdict_shallow(described), "blueprint": named})
        blueprint, artifact = each.completed(1)
        for content in (artifact, *each.files):
            store.put(content)
        found.append(blueprint)
    return found


def asdict_shallow(described: Described) -> dict[str, Any]:
    return {name: getattr(described, name) for name in described.__slots__}


@contextmanager
def weatherlight(state_dir: Path, library: Path, secret: str, args: Any, redis: str | None) -> Iterator[Served]:
    """Its process."""
    endpoint = f"unix:{state_dir}/w.sock"
    environment = {
        **os.environ,
        "ESPER_LEYLINE_SECRET": secret,
        "ESPER_WEATHERLIGHT_WEATHERLIGHT__ARTIFACT_DIR": str(library),
        "BENCH_MEAN_MS": str(args.ready_latency_ms),
        "BENCH_JITTER_MS": str(args.jitter_ms),
    }
    if redis is not None:
        environment["ESPER_WEATHERLIGHT_WEATHERLIGHT__REDIS_URL"] = redis
    command = [sys.executable, __file__, "--serve", "--listen", endpoint, "--state-dir", str(state_dir)]
    with (state_dir / "weatherlight.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with channel(endpoint) as link:
            deadline = time.monotonic() + START_S
            while True:
                try:
                    wait_serving(link, "", timeout_s=1.0)
                    break
                except Exception:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise SystemExit((state_dir / "weatherlight.log").read_text()) from None
        yield Served(endpoint=endpoint, pid=process.pid)
    finally:
        process.terminate()
        process.wait(START_S)


@contextmanager
def redis_server(directory: Path, fsync: str) -> Iterator[str]:
    """Its URL, on a free loopback port."""
    program = shutil.which("redis-server")
    if program is None:
        raise ConfigError("--backends", "redis", "redis-server isn't installed (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keeping = ("--appendonly", "yes", "--appendfsync", fsync, "--save", "")
    place = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory))
    process = subprocess.Popen([program, *place, *keeping], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(START_S)


def measured(name: str, args: Any, *, fsyncs: bool) -> Arm:
    """One arm, in directories of its own."""
    arm, secret = Arm(name=name if fsyncs else f"{name}, no fsync"), new_secret()
    with ExitStack() as stack:
        is_off_disk = not fsyncs and NO_DISK.is_dir()
        place = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="esper-bench-", dir=NO_DISK if is_off_disk else args.dir)
        )
        library = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esper-bench-")))
        blueprints = library_of(library, args.requests + args.cancel + WARM_UP)
        redis = None
        if name == "redis":
            redis = stack.enter_context(redis_server(Path(place), "always" if fsyncs else "no"))
        served = stack.enter_context(weatherlight(Path(place), library, secret, args, redis))

        async def course() -> None:
            await Course(served, secret, library, blueprints, args).run(arm)

        asyncio.run(course())
    return arm


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=6)
    parser.add_argument("--cancel", type=int, default=60, help="further ones that are cancelled half-way")
    parser.add_argument("--ready-latency-ms", type=float, default=40.0, help="mean of Urza's injected latency")
    parser.add_argument("--jitter-ms", type=float, default=8.0, help="its deviation")
    parser.add_argument("--boundary-ms", type=float, default=10.0, help="time between a trainer's boundaries")
    parser.add_argument("--backends", nargs="+", choices=("sqlite", "redis"), default=["sqlite", "redis"])
    parser.add_argument("--dir", type=Path, help="where the bus is kept (default: the temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = [measured(name, args, fsyncs=fsyncs).figures() for name in args.backends for fsyncs in (True, False)]
    print(
        f"{'backend':20} {'above p50':>10} {'above p95':>10} {'ready p95':>10} {'attached p95':>13} {'bare call':>10} {'cpu':>6}   counts"
    )
    for row in rows:
        above, ready, attached = row["above_ms"], row["to_ready_ms"], row["to_attached_ms"]
        counts = ", ".join(f"{count} {status}" for status, count in row["counts"].items() if count)
        print(
            f"{row['backend']:20} {above['p50']:10.2f} {above['p95']:10.2f} {ready['p95']:10.2f}"
            f" {attached['p95']:13.2f} {row['bare_call_ms']['p50']:10.2f} {row['cpu_ms']:6.2f}   {counts}"
        )
    for with_fsync, without in zip(rows[::2], rows[1::2], strict=True):
        share = with_fsync["above_ms"]["p95"] - without["above_ms"]["p95"]
        p95 = without["above_ms"]["p95"]
        met = "met" if p95 <= TARGET_MS else "missed"
        print(f"{with_fsync['backend']}: p95 {p95:.2f} ms above the latency without fsync (target {TARGET_MS:g}: {met}),"
              f" {share:.2f} ms of fsync")  # fmt: skip
    if args.json:
        settings = {name: getattr(args, name) for name in ("requests", "concurrency", "cancel", "ready_latency_ms")}
        args.json.write_text(json.dumps({"settings": settings, "target_ms": TARGET_MS, "rows": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[2:]) if sys.argv[1:2] == ["--serve"] else main())
