"""Weatherlight's RPCs: who may call is judged here, the rest is the supervisor's and the router's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from esper.core.clock import Clock, duration, timestamp
from esper.core.errors import AccessDenied, ContractError, ServiceUnavailable
from esper.core.messages.validation import MAX_INTEGER
from esper.core.plain import plain
from esper.core.security.keys import Keyring
from esper.leyline import (
    AcknowledgeEmergencyRequest,
    AcknowledgeEmergencyResponse,
    BusLane,
    DrainRequest,
    DrainResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PublishTelemetryRequest,
    PublishTelemetryResponse,
    RaiseEmergencyRequest,
    RaiseEmergencyResponse,
    RegisterServiceRequest,
    RegisterServiceResponse,
    SignalRollbackDeadlineRequest,
    SignalRollbackDeadlineResponse,
    SubscribeRequest,
    SubscribeResponse,
    WatchModeRequest,
    WatchModeResponse,
    WeatherlightServiceGetStatusRequest,
    WeatherlightServiceGetStatusResponse,
)
from esper.oona.bus import Bus
from esper.rpc.auth import require_service
from esper.rpc.server.bases import WeatherlightServicer
from esper.rpc.server.call import Call
from esper.weatherlight.abreast import abreast
from esper.weatherlight.actions import Actions
from esper.weatherlight.duties import Duties
from esper.weatherlight.routing import Taken
from esper.weatherlight.supervision.supervisor import Supervisor

log = logging.getLogger("esper.weatherlight")
# Backlog from which senders are asked to hold back.
HOLD_BACK_DEPTH = 20_000
HOLD_BACK_S = 1.0
# Batches of one stream that are on their way to the disk together: they share a commit.
BATCHES_AT_ONCE = 8


class WeatherlightService(WeatherlightServicer):
    """One servicer; `stop` drains the process, `duties` are the background tasks that it can't do without."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        clock: Clock,
        bus: Bus,
        supervisor: Supervisor,
        actions: Actions,
        duties: Duties,
        stop: Callable[[float | None], None],
    ) -> None:
        self._keyring = keyring
        self._bus = bus
        self._supervisor = supervisor
        self._actions = actions
        self._stop = stop
        self._started_ns = clock.now_ns()
        self.duties = duties
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def close_with(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have something closed after the duties have ended."""
        self._closers.append(closer)

    def is_ready(self) -> bool:
        return self.duties.are_well

    async def close(self) -> None:
        await self.duties.close()
        failures = []
        for closer in self._closers:
            try:
                await closer()
            except Exception as error:  # noqa: BLE001 - what follows holds files and is closed all the same
                failures.append(error)
        if failures:
            raise failures[0]

    async def register_service(self, request: RegisterServiceRequest, call: Call) -> RegisterServiceResponse:
        self._require_own(request.service, call)
        await self._supervisor.register(request)
        interval = duration(self._supervisor.registry.heartbeat_s)
        return RegisterServiceResponse(heartbeat_interval=interval, mode=self._supervisor.mode())

    async def heartbeat(self, request: HeartbeatRequest, call: Call) -> HeartbeatResponse:
        self._require_own(request.service, call)
        is_known = await self._supervisor.heartbeat(request)
        return HeartbeatResponse(mode=self._supervisor.mode(), is_unknown=not is_known)

    async def publish_telemetry(
        self, requests: AsyncIterator[PublishTelemetryRequest], call: Call
    ) -> PublishTelemetryResponse:
        require_service(call, self._keyring)
        total = PublishTelemetryResponse(accepted=0, refused=0, duplicates=0)
        async for taken in abreast(self._take, requests, BATCHES_AT_ONCE):
            total.accepted += taken.accepted
            total.refused += taken.refused
            total.duplicates += taken.duplicates
        if await self._bus.depth(BusLane.BUS_LANE_TELEMETRY) > HOLD_BACK_DEPTH:
            total.back_pressure.CopyFrom(duration(HOLD_BACK_S))
        return total

    async def _take(self, request: PublishTelemetryRequest) -> Taken:
        if request.dropped > MAX_INTEGER:
            raise ContractError(
                "PublishTelemetryRequest", [f"dropped is {request.dropped}, expected at most {MAX_INTEGER}"]
            )
        self._supervisor.router.counts.add_dropped(request.dropped)
        return await self._supervisor.router.take(request.packets)

    async def subscribe(self, request: SubscribeRequest, call: Call) -> AsyncIterator[SubscribeResponse]:
        require_service(call, self._keyring)
        async for packet, sequence in self._supervisor.router.subscribe(request):
            yield SubscribeResponse(packet=packet, sequence=sequence)

    async def watch_mode(self, request: WatchModeRequest, call: Call) -> AsyncIterator[WatchModeResponse]:
        require_service(call, self._keyring)
        async for update in self._supervisor.modes():
            yield WatchModeResponse(mode=update)

    async def get_status(
        self, request: WeatherlightServiceGetStatusRequest, call: Call
    ) -> WeatherlightServiceGetStatusResponse:
        require_service(call, self._keyring)
        counts = self._supervisor.router.counts
        return WeatherlightServiceGetStatusResponse(
            mode=self._supervisor.mode(),
            services=self._supervisor.registry.statuses(),
            packets=counts.packets,
            critical=counts.critical,
            dropped=counts.dropped_by_senders,
            log_sequence=await self._last_sequence(),
            started_at=timestamp(self._started_ns),
        )

    async def _last_sequence(self) -> int | None:
        """None while the bus is away: the mode says so, and the rest is known without it."""
        try:
            return await self._bus.last_sequence()
        except ServiceUnavailable:
            return None

    async def raise_emergency(self, request: RaiseEmergencyRequest, call: Call) -> RaiseEmergencyResponse:
        await self._actions.raise_emergency(request.command)
        return RaiseEmergencyResponse(mode=self._supervisor.mode())

    async def signal_rollback_deadline(
        self, request: SignalRollbackDeadlineRequest, call: Call
    ) -> SignalRollbackDeadlineResponse:
        await self._actions.signal_late_rollback(request.command)
        return SignalRollbackDeadlineResponse(mode=self._supervisor.mode())

    async def acknowledge_emergency(
        self, request: AcknowledgeEmergencyRequest, call: Call
    ) -> AcknowledgeEmergencyResponse:
        await self._actions.acknowledge(request.command)
        return AcknowledgeEmergencyResponse(mode=self._supervisor.mode())

    async def drain(self, request: DrainRequest, call: Call) -> DrainResponse:
        order = await self._actions.order_drain(request.command)
        log.warning("draining by order: %s", plain(order.rationale))
        self._stop(order.grace_s if order.HasField("grace_s") else None)
        # What was acknowledged is stored already: nothing waits in memory.
        return DrainResponse()

    def _require_own(self, service: str, call: Call) -> None:
        """A service speaks for itself only."""
        caller = require_service(call, self._keyring)
        if caller != service:
            raise AccessDenied(f"{call.method}: the token belongs to {caller!r}, the request is about {service!r}")
