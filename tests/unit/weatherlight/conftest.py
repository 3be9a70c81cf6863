"""A Weatherlight of parts, on a clock that tests own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import Signer, Verifier
from esper.core.storage.store import SqliteStore
from esper.leyline import EmergencyLevel, Event, TelemetryPacket
from esper.oona.bus import LANES, BusConfig
from esper.oona.log import SqliteLog
from esper.weatherlight.actions import Actions
from esper.weatherlight.routing import Router
from esper.weatherlight.server import open_store
from esper.weatherlight.signed import SignedRequests
from esper.weatherlight.supervision.emergency import EmergencyBook
from esper.weatherlight.supervision.mode import ModeConfig, ModeMachine
from esper.weatherlight.supervision.registry import Registry, RegistryConfig
from esper.weatherlight.supervision.supervisor import Supervisor

KEYRING = Keyring.from_secret("test-secret-0123456789-abcdefghijklm")


@dataclass(kw_only=True, slots=True)
class Plane:
    """The parts."""

    clock: ManualClock
    signer: Signer
    store: SqliteStore
    bus: SqliteLog
    router: Router
    supervisor: Supervisor
    actions: Actions

    async def close(self) -> None:
        await self.supervisor.settled()
        await self.bus.close()
        await asyncio.to_thread(self.store.close)

    async def packets(self) -> list[TelemetryPacket]:
        """Everything on the bus."""
        await self.supervisor.settled()
        return [TelemetryPacket.FromString(each.payload) for each in await self.bus.read(LANES, 0, 1000)]

    async def events(self) -> list[Event]:
        """Every event on the bus, in order."""
        return [event for packet in await self.packets() for event in packet.events]


Open = Callable[[], Plane]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_plane(tmp_path: Path, clock: ManualClock) -> Open:
    """Opens the same plane again and again: close one before the next."""

    def make() -> Plane:
        ledger = NonceLedger(clock)
        store = open_store(tmp_path / "weatherlight.db", ledger)
        bus = SqliteLog(tmp_path / "oona.db", clock, BusConfig(max_lane_entries=50))
        router = Router(bus, KEYRING, clock)
        supervisor = Supervisor(
            clock=clock,
            store=store,
            registry=Registry(store, clock, RegistryConfig(heartbeat_s=2.0, missed_until_lost=3, forget_s=100.0)),
            book=EmergencyBook(store),
            mode=ModeMachine(clock, ModeConfig(dwell_s=10.0, clear_s=5.0)),
            router=router,
        )
        signed = SignedRequests(Verifier(KEYRING, clock), ledger, store)
        actions = Actions(signed, supervisor, clock, EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE)
        clock.advance(1.0)
        signer = Signer(KEYRING, clock)
        return Plane(
            clock=clock, signer=signer, store=store, bus=bus, router=router, supervisor=supervisor, actions=actions
        )

    return make


@pytest.fixture
async def plane(open_plane: Open) -> AsyncIterator[Plane]:
    made = open_plane()
    yield made
    await made.close()
