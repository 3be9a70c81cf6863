#!/usr/bin/env python3
"""How long a prefetch takes above what Urza's verification takes: request to ready, and on to attached at a boundary.

Urza's verification is delayed by a time that follows from the request's id, so that both sides know it and neither
stamps itself. `bus` has Kasmina's prefetcher and Urza in this process, on the bus itself; `plane` is what runs: Urza at
Weatherlight's bus, a process of its own that Kasmina reaches by grpc. What the embedded bus's commits of a request and
of its answer take is timed and shown apart; Redis commits by itself, so each arm runs as it is kept, and where nothing
waits for a disk. A place among those that are under way is free again once its prefetch is ready: attaching waits for
a boundary, not for Urza. Some prefetches are cancelled half-way; nothing may be left of them, and the counts must come
out exactly. A bare call says what the machine gives at the time, and the floor what the steps cost with nothing of
Esper in them: as many at a time, two commits, the same wait in a thread, and a file read in one.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import random
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ConfigError, EsperError
from esper.core.security.keys import Keyring, new_secret
from esper.core.storage import store
from esper.kasmina.control.artifacts.access import ArtifactAccess, Breaker
from esper.kasmina.control.prefetch.lines import ANSWERS, BusLine, Line
from esper.kasmina.control.prefetch.prefetcher import CANCELED, READY, Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.leyline import (
    Blueprint,
    BusEnvelope,
    BusLane,
    KernelPrefetchRequest,
    MessagePriority,
    WeatherlightServiceGetStatusRequest,
)
from esper.oona.bus import Bus, BusConfig
from esper.oona.envelope import check, seal
from esper.oona.following import followed
from esper.oona.log import SqliteLog
from esper.oona.redis import RedisBus
from esper.rpc.auth import service_metadata
from esper.rpc.clients import channel
from esper.rpc.clients.aio import WeatherlightClient, aio_channel
from esper.rpc.clients.health import wait_serving
from esper.rpc.process import SWITCH_INTERVAL_S
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog
from esper.urza.own.description import Described, read_description
from esper.urza.prefetch import Answer, answer
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.routing import Router

START_S = 30.0
TARGET_MS = 3.0
WARM_UP = 30
ENVELOPE_BYTES = 500
RUN = "bench"
COMMITS = "commits.json"
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
    requests: list[str] = field(default_factory=list)
    above: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    """Of `above`, waiting for commits of the request and of its answer; empty for Redis, whose commits are its own."""
    to_ready: list[float] = field(default_factory=list)
    to_attached: list[float] = field(default_factory=list)
    bare_call: list[float] = field(default_factory=list)
    """A unary call of the same Weatherlight, made between the prefetches: what the machine gives at the time."""
    cpu_ms: float = 0.0
    """Processor time of both processes, for each prefetch."""
    floor: list[float] = field(default_factory=list)
    """Above the same delays, what a prefetch's steps take without Esper, on the same disk."""
    floor_cpu_ms: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    left_behind: int = 0

    @property
    def rest(self) -> list[float]:
        """Of `above`, what no commit took."""
        return [above - commit for above, commit in zip(self.above, self.commit, strict=True)] if self.commit else []

    def note_commits(self, seconds: Mapping[str, float]) -> None:
        """By the event id of what was committed."""
        both = [(seconds.get(name), seconds.get(f"{name}-answer")) for name in self.requests]
        self.commit = [(own + answers) * 1e3 for own, answers in both if own is not None and answers is not None]

    def figures(self) -> dict[str, Any]:
        found = {"backend": self.name, "counts": self.counts, "left_behind": self.left_behind}
        found |= {"cpu_ms": self.cpu_ms, "floor_cpu_ms": self.floor_cpu_ms}
        for name in ("above", "commit", "rest", "to_ready", "to_attached", "bare_call", "floor"):
            if values := getattr(self, name):
                found[f"{name}_ms"] = {
                    "p50": statistics.median(values),
                    "p95": sorted(values)[int(0.95 * (len(values) - 1))],
                    "max": max(values),
                    "mean": statistics.fmean(values),
                }
        return found


class Commits:
    """For how long each envelope waited for commits of the embedded bus: its own, and one before it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._handed_over: dict[str, float] = {}
        self._open: list[str] = []
        self._spans: deque[tuple[float, float]] = deque(maxlen=100)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Of stores that are opened in this process meanwhile."""
        publish, append, opened = SqliteLog.publish, SqliteLog._append, store._open_for_writing

        async def handed_over(log: SqliteLog, envelopes: Sequence[BusEnvelope]) -> Any:
            self._handed_over |= dict.fromkeys((each.event_id for each in envelopes), time.perf_counter())
            return await publish(log, envelopes)

        def appended(log: SqliteLog, db: Any, envelopes: Sequence[BusEnvelope]) -> Any:
            self._open += [envelope.event_id for envelope in envelopes]
            return append(log, db, envelopes)

        with (
            mock.patch.object(SqliteLog, "publish", handed_over),
            mock.patch.object(SqliteLog, "_append", appended),
            mock.patch.object(store, "_open_for_writing", lambda path: TimedConnection(opened(path), self)),
        ):
            yield

    def note(self, began: float, ended: float) -> None:
        """One is over; the store's one writer alone comes here."""
        self._spans.append((began, ended))
        for name in self._open:
            since = self._handed_over.pop(name)
            self.seconds[name] = sum(max(0.0, end - max(begin, since)) for begin, end in self._spans)
        self._open.clear()


class TimedConnection:
    """A writer's connection, whose commits are timed."""

    def __init__(self, connection: sqlite3.Connection, commits: Commits) -> None:
        self._connection, self._commits = connection, commits

    def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
        if statement != "COMMIT":
            return self._connection.execute(statement, *given)
        began = time.perf_counter()
        done = self._connection.execute(statement)
        self._commits.note(began, time.perf_counter())
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Place(Protocol):
    """Where the bus and Urza are."""

    line: Line

    async def bare_call(self) -> None:
        """The least that can be asked of it."""

    def cpu_s(self) -> float:
        """Processor seconds of all that takes part."""

    async def close(self) -> None:
        """The end."""


class PlanePlace:
    """Weatherlight, a process of its own."""

    def __init__(self, endpoint: str, pid: int, keyring: Keyring) -> None:
        self.line: Line = BusLine(endpoint, None, keyring, SYSTEM_CLOCK)
        self._pid = pid
        self._channel = aio_channel(endpoint, None)
        self._client = WeatherlightClient(self._channel, metadata=service_metadata(keyring, "tolaria"))

    async def bare_call(self) -> None:
        await self._client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=START_S)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()

    async def close(self) -> None:
        await self._channel.close()


class BusPlace:
    """The bus and Urza in this process; it is the line too."""

    def __init__(self, bus: Bus, store: ArtifactStore, keyring: Keyring, delay: Delay) -> None:
        self.line: Line = self
        self._bus, self._keyring = bus, keyring
        self._kernels = Kernels(store, Router(bus, keyring, SYSTEM_CLOCK), keyring, SYSTEM_CLOCK)
        self._kernels._work = partial(slowly, delay, store)
        self._tasks = [asyncio.create_task(self._kernels.run(bus)), asyncio.create_task(self._listen())]
        self._on_answer: Callable[[Answer], None] = lambda told: None

    async def ask(self, request: KernelPrefetchRequest, on_answer: Callable[[Answer], None]) -> None:
        self._on_answer = on_answer
        lane, priority = BusLane.BUS_LANE_KERNEL_REQUESTS, MessagePriority.MESSAGE_PRIORITY_NORMAL
        envelope = seal(
            self._keyring,
            SYSTEM_CLOCK,
            request,
            source="kasmina",
            lane=lane,
            priority=priority,
            event_id=request.request_id,
        )
        await self._bus.publish([envelope])

    async def _listen(self) -> None:
        """As Kasmina's line does: followed by position, and checked."""
        async for page in followed(self._bus, (BusLane.BUS_LANE_KERNEL_ANSWERS,), 0, 64, 1.0):
            for envelope in page:
                check(self._keyring, envelope, SYSTEM_CLOCK.now_ns())
                self._on_answer(ANSWERS[envelope.payload_type].FromString(envelope.payload))

    async def bare_call(self) -> None:
        await self._bus.last_sequence()

    def cpu_s(self) -> float:
        return time.process_time()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._kernels.worker.close()
        await self._bus.close()


class Course:
    """The prefetches of one arm."""

    def __init__(self, place: Place, library: Path, blueprints: Sequence[Blueprint], args: Any) -> None:
        self.place = place
        self.access = ArtifactAccess(Catalog.builtin(), ArtifactStore(library), Breaker(name="artifacts"))
        self.prefetcher = Prefetcher(
            self.access,
            place.line,
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
            await self._bare_call(arm)  # at least one, however soon the prefetches are over
            began_s = self.place.cpu_s()
            calling = asyncio.create_task(self._bare_calls(arm))
            given_up = set(random.Random(1).sample(range(len(rest)), self.cancelled))
            await asyncio.gather(
                *(self._given_up(each) if i in given_up else self._one(each, arm) for i, each in enumerate(rest))
            )
            calling.cancel()
            arm.cpu_ms = (self.place.cpu_s() - began_s) * 1e3 / len(rest)
            await asyncio.sleep(0.1)
            self._settle(arm)
        finally:
            ticking.cancel()
            await self.prefetcher.close()

    async def _bare_calls(self, arm: Arm) -> None:
        while True:
            await asyncio.sleep(0.05)
            await self._bare_call(arm)

    async def _bare_call(self, arm: Arm) -> None:
        began = time.perf_counter()
        await self.place.bare_call()
        arm.bare_call.append((time.perf_counter() - began) * 1e3)

    async def _one(self, blueprint: Blueprint, arm: Arm) -> None:
        """Its place is another's once it is ready: what it then waits for is a boundary, not Urza."""
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
        arm.requests.append(request_id)
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


class Floor:
    """A prefetch's steps with nothing of Esper: the event loop, one connection of SQLite, the interpreter's threads."""

    def __init__(self, kept: Path, artifact: Path, args: Any) -> None:
        self._db = sqlite3.connect(kept / "floor.db", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE kept (envelope BLOB)",
        ):
            self._db.execute(statement)
        self._artifact = artifact
        self._delay = Delay(mean_ms=args.ready_latency_ms, jitter_ms=args.jitter_ms)
        self._places = asyncio.Semaphore(args.concurrency)
        self._writer, self._readers = ThreadPoolExecutor(1), ThreadPoolExecutor(8)

    async def run(self, arm: Arm) -> None:
        began_s = time.process_time()
        arm.floor = await asyncio.gather(*map(self._one, arm.requests))
        arm.floor_cpu_ms = (time.process_time() - began_s) * 1e3 / max(1, len(arm.floor))

    async def _one(self, request_id: str) -> float:
        run, delay_s = asyncio.get_running_loop().run_in_executor, self._delay.of(request_id)
        async with self._places:
            began = time.perf_counter()
            await run(self._writer, self._commit)
            await run(self._readers, time.sleep, delay_s)
            await run(self._writer, self._commit)
            await run(self._readers, self._artifact.read_bytes)
            return (time.perf_counter() - began - delay_s) * 1e3

    def _commit(self) -> None:
        self._db.execute("INSERT INTO kept VALUES (?)", (bytes(ENVELOPE_BYTES),))

    def close(self) -> None:
        for threads in (self._writer, self._readers):
            threads.shutdown()
        self._db.close()


def serve(argv: Sequence[str]) -> int:
    """Weatherlight, whose Urza takes its time; in a process of its own."""
    from esper.weatherlight import kernels, server

    delay = Delay(mean_ms=float(os.environ["BENCH_MEAN_MS"]), jitter_ms=float(os.environ["BENCH_JITTER_MS"]))
    kernels.answer = partial(slowly, delay)
    commits = Commits()
    with commits.watched():
        code = server.main(argv)
    Path(os.environ["BENCH_COMMITS"]).write_text(json.dumps(commits.seconds))
    return code


def slowly(delay: Delay, store: ArtifactStore, request: KernelPrefetchRequest) -> Answer:
    """Urza's answer, as late as the request's delay says."""
    due = time.perf_counter() + delay.of(request.request_id)
    told = answer(store, request)
    time.sleep(max(0.0, due - time.perf_counter()))
    return told


def library_of(directory: Path, count: int) -> list[Blueprint]:
    """As many blueprints as there are requests: what is at hand already would not be asked for."""
    (directory / "b.py").write_text("def build(shape, parameters, weights):\n    raise NotImplementedError\n")
    (directory / "b.toml").write_text(DESCRIPTION)
    described, artifacts, found = read_description(directory / "b.toml"), ArtifactStore(directory), []
    for number in range(count):
        named = Blueprint()
        named.CopyFrom(described.blueprint)
        named.blueprint_id = f"bench.b{number}"
        each = Described(**{**asdict_shallow(described), "blueprint": named})
        blueprint, artifact = each.completed(1)
        for content in (artifact, *each.files):
            artifacts.put(content)
        found.append(blueprint)
    return found


def asdict_shallow(described: Described) -> dict[str, Any]:
    return {name: getattr(described, name) for name in described.__slots__}


@contextmanager
def weatherlight(
    state_dir: Path, library: Path, secret: str, args: Any, redis: str | None
) -> Iterator[tuple[str, int]]:
    """Its endpoint and process."""
    endpoint = f"unix:{state_dir}/w.sock"
    environment = {
        **os.environ,
        "ESPER_LEYLINE_SECRET": secret,
        "ESPER_WEATHERLIGHT_WEATHERLIGHT__ARTIFACT_DIR": str(library),
        "BENCH_MEAN_MS": str(args.ready_latency_ms),
        "BENCH_JITTER_MS": str(args.jitter_ms),
        "BENCH_COMMITS": str(state_dir / COMMITS),
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
                except EsperError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise SystemExit((state_dir / "weatherlight.log").read_text()) from None
        yield endpoint, process.pid
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


def measured(through: str, name: str, args: Any, *, fsyncs: bool) -> Arm:
    """One arm, in directories of its own."""
    arm, secret = Arm(name=f"{through} {name}{'' if fsyncs else ', no fsync'}"), new_secret()
    with ExitStack() as stack:
        off_disk = NO_DISK if not fsyncs and NO_DISK.is_dir() else args.dir
        kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esper-bench-", dir=off_disk)))
        library = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esper-bench-")))
        blueprints = library_of(library, args.requests + args.cancel + WARM_UP)
        redis = None
        if name == "redis":
            redis = stack.enter_context(redis_server(kept, "always" if fsyncs else "no"))
        if through == "plane":
            with weatherlight(kept, library, secret, args, redis) as served:
                asyncio.run(_course(arm, served, kept, library, blueprints, secret, redis, args))
            arm.note_commits(json.loads((kept / COMMITS).read_text()))
        else:
            commits = Commits()
            with commits.watched():
                asyncio.run(_course(arm, None, kept, library, blueprints, secret, redis, args))
            arm.note_commits(commits.seconds)
        asyncio.run(_floor(arm, kept, library / blueprints[0].artifact.digest, args))
    return arm


async def _floor(arm: Arm, kept: Path, artifact: Path, args: Any) -> None:
    floor = Floor(kept, artifact, args)
    try:
        await floor.run(arm)
    finally:
        floor.close()


async def _course(
    arm: Arm,
    served: tuple[str, int] | None,
    kept: Path,
    library: Path,
    blueprints: Sequence[Blueprint],
    secret: str,
    redis: str | None,
    args: Any,
) -> None:
    keyring = Keyring.from_secret(secret)
    place: Place
    if served is not None:
        place = PlanePlace(*served, keyring)
    else:
        bus: Bus = SqliteLog(kept / "oona.db", SYSTEM_CLOCK) if redis is None else RedisBus.connect(redis, BusConfig())
        delay = Delay(mean_ms=args.ready_latency_ms, jitter_ms=args.jitter_ms)
        place = BusPlace(bus, ArtifactStore(library), keyring, delay)
    try:
        await Course(place, library, blueprints, args).run(arm)
    finally:
        await place.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=6)
    parser.add_argument("--cancel", type=int, default=60, help="further ones that are cancelled half-way")
    parser.add_argument("--ready-latency-ms", type=float, default=40.0, help="mean of Urza's injected latency")
    parser.add_argument("--jitter-ms", type=float, default=8.0, help="its deviation")
    parser.add_argument("--boundary-ms", type=float, default=10.0, help="time between a trainer's boundaries")
    parser.add_argument("--through", nargs="+", choices=("bus", "plane"), default=["bus", "plane"])
    parser.add_argument("--backends", nargs="+", choices=("sqlite", "redis"), default=["sqlite", "redis"])
    parser.add_argument("--dir", type=Path, help="where the bus is kept (default: the temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as services do
    rows = []
    for through in args.through:
        for name in args.backends:
            kept, free = (measured(through, name, args, fsyncs=fsyncs).figures() for fsyncs in (True, False))
            rows += [kept, free]
    print("\n".join(table(rows)))
    if args.json:
        names = ("requests", "concurrency", "cancel", "ready_latency_ms", "jitter_ms", "boundary_ms")
        settings = {name: getattr(args, name) for name in names}
        args.json.write_text(json.dumps({"settings": settings, "target_ms": TARGET_MS, "rows": rows}, indent=2))
    return 0


def _cell(value: float) -> str:
    return f"{'-':>13}" if math.isnan(value) else f"{value:13.2f}"


COLUMNS = ("above p50", "above p95", "commit p50", "commit p95", "rest p95", "attached p95", "bare call", "cpu")
COLUMNS += ("floor p50", "floor p95", "floor cpu")
NONE = {"p50": math.nan, "p95": math.nan}


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Milliseconds, and the counts."""
    yield f"{'ms':24}" + "".join(f"{name:>13}" for name in COLUMNS) + "   counts"
    for row in rows:
        above, attached = row["above_ms"], row["to_attached_ms"]
        commit, rest = row.get("commit_ms", NONE), row.get("rest_ms", NONE)
        counts = ", ".join(f"{count} {status}" for status, count in row["counts"].items() if count)
        values = (above["p50"], above["p95"], commit["p50"], commit["p95"], rest["p95"], attached["p95"])
        values += (row["bare_call_ms"]["p50"], row["cpu_ms"])
        values += (row["floor_ms"]["p50"], row["floor_ms"]["p95"], row["floor_cpu_ms"])
        yield f"{row['backend']:24}" + "".join(map(_cell, values)) + f"   {counts}"
    for kept, free in zip(rows[::2], rows[1::2], strict=True):
        # Redis commits in a process of its own, so there the arm without fsync says what the rest is.
        p95 = kept.get("rest_ms", free["above_ms"])["p95"]
        met = "met" if p95 <= TARGET_MS else "missed"
        commits = kept["above_ms"]["p95"] - p95
        floor, cpu = free["above_ms"]["p95"] / free["floor_ms"]["p95"], free["cpu_ms"] / free["floor_cpu_ms"]
        yield (
            f"{kept['backend']}: p95 {p95:.2f} ms (target {TARGET_MS:g}: {met}), and {commits:.2f} ms of commits;"
            f" without fsync {floor:.1f} times the floor's, and {cpu:.1f} times its processor time"
        )


if __name__ == "__main__":
    sys.exit(serve(sys.argv[2:]) if sys.argv[1:2] == ["--serve"] else main())
