"""A process's line to Weatherlight: it registers, sends heartbeats and telemetry, and hears the plane's mode.

Threads of its own do the work, so `send` never waits, from a training step or an event loop alike. What is sent is
repeated until it is acknowledged; Weatherlight drops what it has seen. No answer of Weatherlight's ends a thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from esper.core.clock import nanoseconds
from esper.core.counted import counted
from esper.core.errors import AccessDenied, AsyncTimeoutError, EsperError
from esper.core.security.keys import Keyring
from esper.leyline import (
    HealthStatus,
    ModeUpdate,
    PublishTelemetryRequest,
    SystemMode,
    TelemetryLevel,
    TelemetryPacket,
    WatchModeRequest,
)
from esper.rpc.auth import service_metadata
from esper.rpc.clients.channel import Tls, channel
from esper.rpc.clients.sync import WeatherlightClient
from esper.rpc.reporting.outbox import CRITICAL, Batch, Outbox
from esper.rpc.reporting.presence import Presence

log = logging.getLogger("esper.telemetry")
WATCH_S = 3600.0
UNHEARD = ModeUpdate(mode=SystemMode.SYSTEM_MODE_UNSPECIFIED, cause="not heard yet")


class Reporter(Protocol):
    """Where a component leaves its telemetry."""

    def send(self, packet: TelemetryPacket) -> None:
        """Take a packet; never waits."""

    @property
    def plane(self) -> ModeUpdate:
        """The plane as last heard; its mode is UNSPECIFIED while Weatherlight can't be heard."""

    @property
    def dropped(self) -> int:
        """Packets that had to be dropped."""

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        """Health that the next heartbeat tells, and the run that it is about; None for all."""

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most `timeout_s`."""


class LogReporter:
    """For a process without Weatherlight: CRITICAL events go to the log, the rest nowhere."""

    dropped: int = 0

    @property
    def plane(self) -> ModeUpdate:
        return UNHEARD

    def send(self, packet: TelemetryPacket) -> None:
        for event in packet.events:
            if event.level == TelemetryLevel.TELEMETRY_LEVEL_CRITICAL:
                attributes = {a.key: getattr(a, a.WhichOneof("value") or "text") for a in event.attributes}
                log.critical("%s: %s %s %s", packet.source, event.name, event.message, attributes)

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        return

    def close(self, timeout_s: float) -> None:
        return


@dataclass(frozen=True, kw_only=True, slots=True)
class SenderConfig:
    """Pace and bounds of a sender."""

    capacity: int = 2048  # packets that may wait, CRITICAL ones not counted
    max_batch: int = 256  # packets of one batch
    flush_s: float = 1.0  # a packet waits at most this long, a CRITICAL one not at all
    timeout_s: float = 5.0  # deadline of each call
    retry_s: float = 0.5  # pause after a failure; doubles up to max_retry_s
    max_retry_s: float = 5.0
    max_hold_s: float = 30.0  # longest pause that back-pressure may ask for; heartbeats wait as long


class TelemetrySender:
    """A reporter whose packets go to Weatherlight. `endpoint_served` is where this process itself can be reached."""

    def __init__(
        self,
        endpoint: str,
        keyring: Keyring,
        service: str,
        *,
        endpoint_served: str | None = None,
        tls: Tls | None = None,
        config: SenderConfig | None = None,
    ) -> None:
        self._config = config or SenderConfig()
        self._outbox = Outbox(self._config.capacity, self._config.max_batch)
        self._channel = channel(endpoint, tls)
        self._keyring = keyring
        self._client = self._new_client(service)
        self._presence = Presence(service, endpoint_served)
        self._mode = UNHEARD
        self._hold_s = 0.0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._publisher = threading.Thread(target=self._publish, name="telemetry", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="mode", daemon=True)
        self._publisher.start()
        self._watcher.start()

    @property
    def plane(self) -> ModeUpdate:
        return self._mode

    @property
    def dropped(self) -> int:
        return self._outbox.dropped

    @property
    def pending(self) -> int:
        """Packets that wait."""
        return len(self._outbox)

    def send(self, packet: TelemetryPacket) -> None:
        self._outbox.put(packet)
        if packet.priority == CRITICAL:
            self._wake.set()

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        self._presence.health, self._presence.summary, self._presence.run = health, summary, run

    def close(self, timeout_s: float) -> None:
        self._closing.set()
        self._wake.set()
        self._publisher.join(timeout_s)
        self._channel.close()
        self._watcher.join(timeout_s)

    def _new_client(self, service: str) -> WeatherlightClient:
        """A client with a token of the key that is active now."""
        return WeatherlightClient(self._channel, metadata=service_metadata(self._keyring, service))

    def _publish(self) -> None:
        """Send batches and heartbeats until closed, then once more what waits."""
        pause_s = 0.0
        while not self._closing.is_set():
            if pause_s:
                self._closing.wait(pause_s)
            else:
                self._wake.wait(max(self._hold_s, self._config.flush_s))
            self._wake.clear()
            pause_s = self._round(pause_s)
        self._leave(is_told=bool(pause_s))

    def _round(self, last_pause_s: float) -> float:
        """One round of heartbeat and batches; gives the pause that a failure asks for."""
        try:
            if self._presence.is_due():
                self._beat()
            self._flush_all()
            return 0.0
        except Exception as error:  # the edge of the thread: without it nobody would be told any more
            if isinstance(error, AccessDenied):
                self._client = self._new_client(self._presence.service)
            if not last_pause_s:
                unexpected = None if isinstance(error, EsperError) else error
                waiting = counted(len(self._outbox), "packet")
                log.warning("telemetry waits, %s: %s", waiting, error, exc_info=unexpected)
            doubled_s = min(max(self._config.retry_s, 2 * last_pause_s), self._config.max_retry_s)
            # Packets may be refused where signs of life are heard: their time doesn't wait.
            return min(doubled_s, self._presence.interval_s) if self._presence.is_registered else doubled_s

    def _leave(self, *, is_told: bool) -> None:
        """Send what still waits and take leave, so that nobody counts this process as lost.

        `is_told`: that it waits was told, and nothing has gone out since. That it is lost is news all the same.
        """
        is_told &= not len(self._outbox)
        is_told |= self._tried(self._flush_all, "telemetry that waits is lost", is_told=is_told)
        self._tried(self._take_leave, "left without notice", is_told=is_told)

    def _tried(self, last: Callable[[], None], loss: str, *, is_told: bool) -> bool:
        """Do one of the last things; True where it failed, which is told unless it was told before."""
        try:
            last()
            return False
        except Exception as error:  # noqa: BLE001 - the edge of the thread
            level = logging.DEBUG if is_told else logging.WARNING
            log.log(level, "%s, %s unsent: %s", loss, counted(len(self._outbox), "packet"), error)
            return True

    def _take_leave(self) -> None:
        if self._presence.is_registered:
            self._client.heartbeat(self._presence.heartbeat(is_leaving=True), timeout_s=self._config.timeout_s)

    def _beat(self) -> None:
        presence, timeout_s = self._presence, self._config.timeout_s
        if presence.is_registered:
            answer = self._client.heartbeat(presence.heartbeat(), timeout_s=timeout_s)
            presence.is_registered = not answer.is_unknown
            self._catch_up(answer.mode)
        if not presence.is_registered:
            registered = self._client.register_service(presence.registration(), timeout_s=timeout_s)
            presence.interval_s = nanoseconds(registered.heartbeat_interval) / 1e9
            presence.is_registered = True
            self._catch_up(registered.mode)
        presence.noted()

    def _catch_up(self, told: ModeUpdate) -> None:
        """A mode that began after the one that was heard: the stream that should have told it is stuck."""
        heard = self._mode
        if heard.HasField("since") and nanoseconds(told.since) > nanoseconds(heard.since):
            self._mode = told

    def _flush_all(self) -> None:
        """Send every batch that waits, until the receiver asks to hold back; only a CRITICAL packet breaks that."""
        self._hold_s = 0.0
        while (batch := self._outbox.take()) is not None:
            try:
                answer = self._client.publish_telemetry(iter([_request(batch)]), timeout_s=self._config.timeout_s)
            except BaseException:
                self._outbox.restore(batch)
                raise
            if answer.refused:
                log.error("Weatherlight refused %d packets as invalid", answer.refused)
            missing = len(batch.packets) - answer.accepted - answer.refused - answer.duplicates
            if missing > 0:
                log.error("of %d packets Weatherlight doesn't account for %d", len(batch.packets), missing)
            if answer.HasField("back_pressure"):
                self._hold_s = min(nanoseconds(answer.back_pressure) / 1e9, self._config.max_hold_s)
                return

    def _watch(self) -> None:
        """Follow the mode; while it can't be heard it is UNSPECIFIED."""
        while not self._closing.is_set():
            try:
                for response in self._modes():
                    self._mode = response
            except AsyncTimeoutError:
                continue
            except Exception as error:  # the edge of the thread: a mode that nobody follows looks normal
                if not isinstance(error, EsperError):
                    log.warning("the mode can't be heard: %s", error, exc_info=error)
                self._mode = ModeUpdate(mode=SystemMode.SYSTEM_MODE_UNSPECIFIED, cause=str(error))
            self._closing.wait(self._config.retry_s)

    def _modes(self) -> Iterator[ModeUpdate]:
        for response in self._client.watch_mode(WatchModeRequest(), timeout_s=WATCH_S):
            yield response.mode


def _request(batch: Batch) -> PublishTelemetryRequest:
    return PublishTelemetryRequest(packets=batch.packets, dropped=batch.dropped)
