"""The line to Urza over a real bus and real grpc: it outlives a bus that is away, and believes nobody without a key."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.kasmina.control.artifacts.access import ArtifactAccess, Breaker
from esper.kasmina.control.prefetch.lines import BusLine
from esper.kasmina.control.prefetch.prefetcher import Ended, Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.leyline import BusEnvelope, BusLane, KernelArtifactReady, MessagePriority, PrefetchStatus, RunClosure
from esper.oona.envelope import seal
from esper.oona.log import SqliteLog
from esper.rpc.server.server import Server, ServerConfig, start
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog
from esper.weatherlight.bus_service import BusService
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.routing import Router
from tests.unit.urza.own.making import described, stored

KEYS = Keyring.from_secret("correct horse battery staple 0123456789 abcdef")
FORGER = Keyring.from_secret("another battery staple 0123456789 abcdefgh ij")
READY = PrefetchStatus.PREFETCH_STATUS_READY


class Plane:
    """Weatherlight's bus with Urza at it; it can go away and come back to the same place."""

    def __init__(self, path: Path, store: ArtifactStore) -> None:
        self.endpoint = f"unix:{path}/s"
        self.bus = SqliteLog(path / "oona.db", SYSTEM_CLOCK)
        self.router = Router(self.bus, KEYS, SYSTEM_CLOCK)
        self.kernels = Kernels(store, self.router, KEYS, SYSTEM_CLOCK)
        self.urza = asyncio.create_task(self.kernels.run(self.bus))
        self._server: Server | None = None
        self._is_closed = False

    async def come(self) -> None:
        service = BusService(self.bus, self.router, KEYS, SYSTEM_CLOCK)
        self._server = await start(ServerConfig(listen=self.endpoint, grace_s=0.1), [service])

    async def go(self) -> None:
        assert self._server is not None
        await self._server.drain(0.0)

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await self.go()
        self.urza.cancel()
        await asyncio.gather(self.urza, return_exceptions=True)
        self.kernels.worker.close()
        await self.bus.close()


def envelope_of_nobody(number: int) -> BusEnvelope:
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    closure = RunClosure(reason="other")
    return seal(KEYS, SYSTEM_CLOCK, closure, source="x", lane=lane, priority=priority, event_id=f"other{number}")


class Kasmina:
    """A prefetcher on that line."""

    def __init__(self, plane: Plane, store: ArtifactStore, catalog: Catalog) -> None:
        self.access = ArtifactAccess(Catalog.builtin(), store, Breaker(name="artifacts"))
        line, clock = BusLine(plane.endpoint, None, KEYS, SYSTEM_CLOCK), SYSTEM_CLOCK
        reporting = Reporting(clock, lambda packet: None, self.access)
        self.prefetcher = Prefetcher(self.access, line, reporting, clock, timeout_s=30.0)
        self.catalog = catalog

    async def ready(self, run_id: str) -> Ended:
        return await self.prefetcher.ready(run_id, self.catalog, "lab.gated", seed_id="s1")


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    made = Plane(tmp_path, ArtifactStore(_library(tmp_path)))
    yield made
    await made.close()


def _library(path: Path) -> Path:
    stored(described(path), path / "artifacts")
    return path / "artifacts"


@pytest.fixture
async def kasmina(plane: Plane, tmp_path: Path) -> AsyncIterator[Kasmina]:
    catalog = Catalog.builtin().with_own([described(tmp_path).completed(1)[0]])
    made = Kasmina(plane, ArtifactStore(tmp_path / "artifacts"), catalog)
    yield made
    await made.prefetcher.close()


async def test_a_request_is_answered_over_the_bus(plane: Plane, kasmina: Kasmina) -> None:
    await plane.come()
    assert await kasmina.ready("r1") == Ended(READY)
    assert (plane.kernels.answered, kasmina.prefetcher.inflight) == (1, 0)


async def test_a_bus_that_is_away_for_a_while_loses_no_request(plane: Plane, kasmina: Kasmina) -> None:
    waiting = asyncio.create_task(kasmina.ready("r1"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await plane.come()
    assert await waiting == Ended(READY)
    kasmina.access.cache._contents.clear()
    await plane.go()
    waiting = asyncio.create_task(kasmina.ready("r2"))
    await asyncio.sleep(0.3)
    await plane.come()
    assert await waiting == Ended(READY)
    requests = kasmina.access.figures.requests
    assert (requests["scheduled"], requests["ready"]) == (2, 2)


async def test_a_bus_whose_log_began_anew_is_heard_too(tmp_path: Path, plane: Plane, kasmina: Kasmina) -> None:
    await plane.bus.publish([envelope_of_nobody(number) for number in range(20)])
    await plane.come()
    assert await kasmina.ready("r1") == Ended(READY)
    kasmina.access.cache._contents.clear()
    await plane.close()
    (tmp_path / "anew").mkdir()
    anew = Plane(tmp_path / "anew", ArtifactStore(tmp_path / "artifacts"))
    anew.endpoint = plane.endpoint
    await anew.come()
    try:
        assert await kasmina.ready("r2") == Ended(READY)
    finally:
        await anew.close()


async def test_what_is_asked_leaves_no_account_on_the_bus(plane: Plane, kasmina: Kasmina) -> None:
    """Two commits carry a prefetch: its request and its answer."""
    await plane.come()
    assert await kasmina.ready("r1") == Ended(READY)
    tables = ("cursors", "deliveries", "seen")
    counts = plane.bus._store.read(
        lambda db: [db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in tables]
    )
    assert counts == [0, 0, 0]
    assert await plane.bus.last_sequence() == 2


async def test_an_answer_without_an_accepted_key_is_none(plane: Plane, kasmina: Kasmina) -> None:
    plane.urza.cancel()
    await plane.come()
    waiting = asyncio.create_task(kasmina.ready("r1"))
    lanes = [BusLane.BUS_LANE_KERNEL_REQUESTS]
    while not (requests := await plane.bus.read(lanes, 0, 10)):
        await asyncio.sleep(0.01)
    for keys in (FORGER, KEYS):
        assert not waiting.done()
        told = KernelArtifactReady(
            request_id=requests[0].event_id,
            blueprint_id="lab.gated",
            artifact=kasmina.catalog.get("lab.gated").artifact,
            verify_ms=0.0,
            content=kasmina.access.store.get(kasmina.catalog.get("lab.gated").artifact.digest),
        )
        lane, priority = BusLane.BUS_LANE_KERNEL_ANSWERS, MessagePriority.MESSAGE_PRIORITY_NORMAL
        await plane.bus.publish([seal(keys, SYSTEM_CLOCK, told, source="urza", lane=lane, priority=priority)])
        await asyncio.sleep(0.2)
    assert await waiting == Ended(READY)
