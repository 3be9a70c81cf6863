"""The Weatherlight process: stores, bus, supervisor and Nissa put together, and what they do by the clock."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import REGISTRY

from esper.core.clock import Clock
from esper.core.errors import BackPressure, ServiceUnavailable
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import Verifier
from esper.core.storage.store import SqliteStore
from esper.core.telemetry import build_packet, event
from esper.leyline import TelemetryPacket
from esper.nissa.delivery import Delivery
from esper.nissa.ingest import Ingestor
from esper.nissa.series import LatestValues
from esper.oona.bus import Bus
from esper.oona.log import SqliteLog
from esper.rpc.process import ServiceContext, run_service
from esper.rpc.server.bases import Servicer
from esper.urza.artifacts import ArtifactStore
from esper.weatherlight import metrics
from esper.weatherlight.actions import Actions
from esper.weatherlight.bus_service import BusService
from esper.weatherlight.config import WeatherlightConfig
from esper.weatherlight.duties import Duties
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.page import serve as serve_page
from esper.weatherlight.routing import Router
from esper.weatherlight.service import WeatherlightService
from esper.weatherlight.signed import SignedRequests
from esper.weatherlight.summary import Summary
from esper.weatherlight.supervision import emergency, registry
from esper.weatherlight.supervision.emergency import EmergencyBook
from esper.weatherlight.supervision.mode import ModeMachine
from esper.weatherlight.supervision.registry import Registry
from esper.weatherlight.supervision.supervisor import Supervisor

log = logging.getLogger("esper.weatherlight")
MOST_WAITING = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `esper-weatherlight`."""
    return run_service("weatherlight", build, argv, config_type=WeatherlightConfig)


async def build(context: ServiceContext[WeatherlightConfig]) -> Sequence[Servicer]:
    """The two servicers of the process, with their background duties running."""
    config, clock, keyring = context.config, context.clock, context.keyring
    ledger = NonceLedger(clock, config.max_nonces)
    store = open_store(context.state_dir / "weatherlight.db", ledger)
    bus = open_bus(config, context.state_dir, clock)
    outgoing = Outgoing()
    router = Router(bus, keyring, clock, tell=outgoing.put)
    duties = Duties()
    supervisor = Supervisor(
        clock=clock,
        store=store,
        registry=Registry(store, clock, config.registry),
        book=EmergencyBook(store),
        mode=ModeMachine(clock, config.mode),
        router=router,
        trouble=duties.trouble,
    )
    signed = SignedRequests(Verifier(keyring, clock), ledger, store)
    service = WeatherlightService(
        keyring=keyring,
        clock=clock,
        bus=bus,
        supervisor=supervisor,
        actions=Actions(signed, supervisor, clock, config.rollback_level),
        duties=duties,
        stop=context.stop,
    )
    receivers = config.delivery.receivers(os.environ)
    delivery = Delivery(receivers, clock, context.state_dir / "alerts.json", outgoing.put, config.delivery.pace)
    nissa = Ingestor(keyring, clock, outgoing.put, precedence=router.precedence, delivery=delivery)
    REGISTRY.register(nissa.series)
    duties.take_on("ingest", partial(nissa.run, bus))
    duties.take_on("alerts", nissa.follow_time)
    kernels = Kernels(ArtifactStore(config.artifact_dir), router, keyring, clock)
    duties.take_on("kernels", partial(kernels.run, bus))
    duties.take_on("forward", partial(outgoing.forward, router))
    duties.take_on("sweep", partial(_sweep, supervisor, config.sweep_s))
    summary = Summary(supervisor, duties, bus, kernels, nissa, clock)
    duties.take_on("summarise", partial(summary.run, config.summary_s))
    duties.take_on("trim", partial(_trim, router, config.trim_s))
    if receivers:
        duties.take_on("deliver", delivery.run)
    duties.when_failing(partial(tell_failure, outgoing, clock))
    service.close_with(serve_page(config.page, context.state_dir))
    # Who is told ends after who tells: Weatherlight's last words, alerts, then the bus, then the store.
    service.close_with(supervisor.settled)
    service.close_with(partial(_last_words, summary, outgoing, router))
    service.close_with(delivery.close)
    service.close_with(_closer(kernels))
    service.close_with(partial(_unregister, nissa.series))
    service.close_with(bus.close)
    service.close_with(lambda: asyncio.to_thread(store.close))
    await supervisor.refresh()
    return [service, BusService(bus, router, keyring, clock)]


def open_store(path: Path, ledger: NonceLedger) -> SqliteStore:
    """Registry, emergencies and nonces: one file, so that a nonce and its effect are one transaction."""

    def create(db: sqlite3.Connection) -> None:
        ledger.create(db)
        registry.create(db)
        emergency.create(db)

    return SqliteStore(path, create)


def open_bus(config: WeatherlightConfig, state_dir: Path, clock: Clock) -> Bus:
    """Redis where a URL is given, else the embedded log."""
    if config.redis_url is None:
        return SqliteLog(state_dir / "oona.db", clock, config.bus)
    # An extra: only who asks for Redis needs its client.
    from esper.oona.redis import RedisBus

    return RedisBus.connect(config.redis_url, config.bus)


def _closer(kernels: Kernels) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        kernels.worker.close()

    return close


async def _unregister(series: LatestValues) -> None:
    REGISTRY.unregister(series)


class Outgoing:
    """Nissa's packets and others of this process: they take the same way as everybody's, and wait until it is open."""

    def __init__(self) -> None:
        self._waiting: deque[TelemetryPacket] = deque()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, packet: TelemetryPacket) -> None:
        self._waiting.append(packet)
        self._news.set()

    async def forward(self, router: Router) -> None:
        """Put packets on the bus, in order and for ever."""
        while True:
            while self._waiting:
                await router.take([self._waiting[0]])
                self._waiting.popleft()
            self._news.clear()
            await self._news.wait()

    async def flush(self, router: Router) -> None:
        """Put on the bus what waits now; what has just arrived there is known by its id."""
        await router.take(list(self._waiting))
        self._waiting.clear()


async def _last_words(summary: Summary, outgoing: Outgoing, router: Router) -> None:
    """Put on the bus what was measured last and what waits to be told: the next process reads it there."""
    try:
        await summary.flush()
        await outgoing.flush(router)
    except (BackPressure, ServiceUnavailable) as error:
        log.error("what was measured last is not on the bus, nor are %d packets: %s", len(outgoing), error)


def tell_failure(outgoing: Outgoing, clock: Clock, task: str, cause: str, pause_s: float) -> None:
    """A duty that fails on the bus can tell nobody by it: what waits is bounded, the log has it all."""
    if len(outgoing) < MOST_WAITING:
        told = event(metrics.WORKER_ERROR, clock, cause, task=task, pause_s=pause_s)
        outgoing.put(build_packet("weatherlight", clock, events=[told]))


async def _sweep(supervisor: Supervisor, period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        await supervisor.sweep()


async def _trim(router: Router, period_s: float) -> None:
    while True:
        await router.tidy()
        await asyncio.sleep(period_s)


if __name__ == "__main__":
    sys.exit(main())
