"""The supervisor: one place that knows services, emergencies and mode, and tells of every change.

Whatever changes a fact calls `refresh`; a background task does so too, because time alone makes services lost.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from esper.core.clock import NS_PER_S, Clock, nanoseconds
from esper.core.errors import BackPressure, ServiceUnavailable
from esper.core.lasted import lasted
from esper.core.process.awaited import awaited
from esper.core.storage.store import SqliteStore
from esper.core.telemetry import AttributeValue, MetricSpec, attribute_value, build_packet, event, metric
from esper.leyline import (
    EmergencyAcknowledgement,
    EmergencySignal,
    Event,
    HeartbeatRequest,
    Metric,
    ModeUpdate,
    RegisterServiceRequest,
    RollbackDeadlineSignal,
    SystemMode,
    TelemetryLevel,
)
from esper.weatherlight import metrics
from esper.weatherlight.routing import Router
from esper.weatherlight.supervision.emergency import EmergencyBook
from esper.weatherlight.supervision.mode import ModeMachine, conditions
from esper.weatherlight.supervision.registry import Registry

log = logging.getLogger("esper.weatherlight")
LOG_LEVELS: dict[int, int] = {
    TelemetryLevel.TELEMETRY_LEVEL_DEBUG: logging.DEBUG,
    TelemetryLevel.TELEMETRY_LEVEL_INFO: logging.INFO,
    TelemetryLevel.TELEMETRY_LEVEL_WARNING: logging.WARNING,
    TelemetryLevel.TELEMETRY_LEVEL_ERROR: logging.ERROR,
    TelemetryLevel.TELEMETRY_LEVEL_CRITICAL: logging.CRITICAL,
}


class Supervisor:
    """Facts in, mode and events out. `trouble` says what keeps this process itself from its duties, if anything."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Clock,
        registry: Registry,
        book: EmergencyBook,
        mode: ModeMachine,
        router: Router,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.registry = registry
        self.book = book
        self.router = router
        self.emergency_latency_ms = 0.0
        self.rollback_latency_ms = 0.0
        self.raised: Counter[str] = Counter()
        self.acknowledged = 0
        self._store = store
        self._clock = clock
        self._machine = mode
        self._trouble = trouble
        self._open = book.unresolved()
        self._changed = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def open_emergencies(self) -> list[EmergencySignal]:
        return self._open

    def mode(self) -> ModeUpdate:
        """The mode now."""
        return self._machine.describe(self._open)

    async def modes(self) -> AsyncIterator[ModeUpdate]:
        """The mode at once, and after every change, for ever."""
        while True:
            changed = self._changed
            yield self.mode()
            await changed.wait()

    async def register(self, request: RegisterServiceRequest) -> None:
        """Enter a service; durable when this returns."""
        await self._write(self.registry.register(request))
        place = {"service": request.service, "instance": request.instance}
        await self.tell(event(metrics.SERVICE_REGISTERED, self._clock, **place))
        await self.refresh()

    async def heartbeat(self, request: HeartbeatRequest) -> bool:
        """Note a sign of life; False if the service is unknown here."""
        found = self.registry.heartbeat(request)
        if found is None:
            return request.is_leaving
        before, write = found
        if write is not None:
            await self._write(write)
        place = {"service": request.service, "instance": request.instance}
        if request.is_leaving:
            await self.tell(event(metrics.SERVICE_LEFT, self._clock, **place))
        elif before.is_lost:
            await self.tell(event(metrics.SERVICE_RETURNED, self._clock, **place))
        felt = (before.health, before.summary or "", before.run or "")
        if request.is_leaving or before.is_lost or felt != (request.health, request.summary, request.training_run_id):
            await self.refresh()
        return True

    def emergency_raised(self, signal: EmergencySignal) -> None:
        """Tell of an emergency that was entered: whoever watches the mode at once, the log after it."""
        self.emergency_latency_ms = (self._clock.now_ns() - nanoseconds(signal.raised_at)) / 1e6
        self.raised[signal.origin] += 1
        changed = self._follow_emergencies()
        attributes: dict[str, AttributeValue] = {
            "emergency_id": signal.emergency_id,
            "level": int(signal.level),
            "cause": signal.cause,
            "origin": signal.origin,
        }
        received = event(metrics.EMERGENCY_RECEIVED, self._clock, message=signal.detail, **attributes)
        # Whoever raises emergencies one after the other doesn't wait for the log's disk between them.
        self._tell_soon(self._tell_received(received, changed))

    async def settled(self) -> None:
        """Every emergency that was received or taken in hand has been told, also if the caller goes away."""
        await asyncio.shield(asyncio.gather(*self._telling))

    async def rollback_late(self, signal: RollbackDeadlineSignal) -> None:
        """Tell of a rollback that missed its deadline."""
        self.rollback_latency_ms = signal.elapsed_ms
        run, step, elapsed_ms = signal.training_run_id, signal.step, signal.elapsed_ms
        await self.tell(event(metrics.ROLLBACK_LATE, self._clock, run=run, step=step, elapsed_ms=elapsed_ms))

    def emergency_acknowledged(self, word: EmergencyAcknowledgement) -> None:
        """Tell that someone has an emergency in hand."""
        self.acknowledged += 1
        changed = self._follow_emergencies()
        attributes: dict[str, AttributeValue] = {
            "emergency_id": word.emergency_id,
            "by": word.acknowledged_by,
            "resolved": word.resolved,
        }
        told = event(metrics.EMERGENCY_ACKNOWLEDGED, self._clock, message=word.note or None, **attributes)
        self._tell_soon(self._tell_received(told, changed))

    async def sweep(self) -> None:
        """Find lost services, and let the mode follow the time."""
        lost, write = self.registry.sweep()
        if lost:
            await self._write(write)
        for entry in lost:
            # By the clock it is as long as it was, over restarts too, unless somebody has put the clock back.
            silent_ns = max(self._clock.now_ns() - entry.seen_ns, self._clock.monotonic_ns() - entry.heard_ns)
            silence_s = silent_ns / NS_PER_S
            place = {"service": entry.service, "instance": entry.instance}
            await self.tell(event(metrics.SERVICE_LOST, self._clock, f"silent for {lasted(silence_s)}", **place))
        await self.refresh()

    async def refresh(self) -> None:
        """Let the mode follow the facts."""
        changed = self._follow()
        if changed:
            self._announce()
        await self._tell_mode(changed)

    def _follow(self) -> bool:
        return self._machine.update(conditions(self.registry.statuses(), self._open, self._trouble()))

    def _follow_emergencies(self) -> bool:
        """Read the book again; whoever watches hears of a mere notice too, which changes no mode."""
        self._open = self.book.unresolved()
        changed = self._follow()
        self._announce()
        return changed

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _tell_mode(self, changed: bool) -> None:
        if not changed:
            return
        update = self.mode()
        attributes = {"mode": SystemMode.Name(update.mode), "cause": update.cause}
        told = event(metrics.MODE_CHANGED, self._clock, **attributes)
        await self.tell(told, measured=[metric(metrics.MODE, int(update.mode))])

    def _tell_soon(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_received(self, received: Event, changed: bool) -> None:
        await self._tell_level(received)
        await self._tell_mode(changed)

    async def _tell_level(self, told: Event) -> None:
        """Tell of an emergency with the level that stands now: an alert doesn't wait for the next summary."""
        await self.tell(told, measured=[metric(spec, value) for spec, value in self.emergency_values().items()])

    def emergency_values(self) -> dict[MetricSpec, float]:
        """What is measured of emergencies."""
        return {
            metrics.EMERGENCIES_OPEN: len(self._open),
            metrics.EMERGENCY_LEVEL: max((int(signal.level) for signal in self._open), default=0),
            metrics.EMERGENCY_LATENCY: self.emergency_latency_ms,
            metrics.EMERGENCIES_RAISED: self.raised.total(),
            metrics.EMERGENCIES_OF_TAMIYO: self.raised["tamiyo"],
            metrics.EMERGENCIES_ACKNOWLEDGED: self.acknowledged,
        }

    async def tell(self, *events: Event, measured: Sequence[Metric] = ()) -> None:
        """Publish events of Weatherlight's own, and log them."""
        for each in events:
            attributes = {attribute.key: attribute_value(attribute) for attribute in each.attributes}
            log.log(LOG_LEVELS[each.level], "%s %s %s", each.name, each.message, attributes)
        try:
            await self.router.take([build_packet("weatherlight", self._clock, events=events, metrics=measured)])
        except (BackPressure, ServiceUnavailable) as error:  # a bus that is away keeps no emergency from its end
            log.error("the log above is the only trace of these events: %s", error)

    async def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        await awaited(self._store.submit(work))
