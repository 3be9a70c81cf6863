"""Ingestion: envelopes from the bus become counters, series and alerts; changes of these go to delivery."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from google.protobuf.message import DecodeError
from prometheus_client import Counter, Histogram

from esper.core.clock import Clock
from esper.core.enums import short_name
from esper.core.errors import EsperError
from esper.core.security.keys import Keyring
from esper.core.telemetry import AttributeValue, build_packet, event, metric
from esper.core.tracing import context_of, tracer
from esper.leyline import (
    BusEnvelope,
    BusLane,
    Event,
    FieldReport,
    FieldReportOutcome,
    MessagePriority,
    Metric,
    TelemetryLevel,
    TelemetryPacket,
)
from esper.nissa import metrics
from esper.nissa.alerts import Alerts, Change
from esper.nissa.delivery import Delivery
from esper.nissa.patience import FINISHED, Patience
from esper.nissa.series import LatestValues
from esper.oona.bus import Bus
from esper.oona.envelope import check, check_kept, require_valid_payload, span_attributes
from esper.oona.precedence import Precedence

log = logging.getLogger("esper.nissa")
GROUP = "nissa"
# CRITICAL packets travel on the emergency lane: they are what should alert.
LANES = (BusLane.BUS_LANE_EMERGENCY, BusLane.BUS_LANE_NORMAL, BusLane.BUS_LANE_TELEMETRY)
PAGE = 1024
WAIT_S = 1.0
# The bus is asked again this often, also where nothing was heard of anything new.
ASK_S = 5.0
_tracer = tracer("esper.nissa")


# A counter looks its labels up by their texts: what every packet asks for is kept, as far as senders leave room.
@lru_cache(maxsize=256)
def _packets_of(source: str, priority: int) -> Counter:
    return metrics.PACKETS.labels(source, short_name(MessagePriority, priority).lower())


@lru_cache(maxsize=64)
def _latency_of(payload_type: str) -> Histogram:
    return metrics.INGEST_LATENCY.labels(payload_type.rpartition(".")[2])


class Ingestor:
    """Takes what a group of the bus delivers. `tell` is given Nissa's own packets."""

    def __init__(
        self,
        keyring: Keyring,
        clock: Clock,
        tell: Callable[[TelemetryPacket], None],
        series: LatestValues | None = None,
        precedence: Precedence | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        patience = Patience()
        self.series = series or LatestValues(clock=clock, patience=patience)
        self.alerts = Alerts(clock, patience=patience)
        self._delivery = delivery
        self._keyring = keyring
        self._clock = clock
        self._tell = tell
        self._precedence = precedence or Precedence()
        if delivery is not None:
            self.alerts.restore(delivery.standing)
        self._takers: dict[str, Callable[[BusEnvelope], None]] = {
            TelemetryPacket.DESCRIPTOR.full_name: self._take_packet,
            FieldReport.DESCRIPTOR.full_name: self._take_report,
        }

    async def run(self, bus: Bus) -> None:
        """Follow the bus for ever."""
        # What an earlier process took and did not settle is due at once.
        await bus.release(GROUP, GROUP)
        async with asyncio.TaskGroup() as under_way:
            settled = under_way.create_task(bus.acknowledge(GROUP, []))
            coming = under_way.create_task(self._next_page(bus))
            while True:
                envelopes = await coming
                # The disk has the next page lent and the last one settled while this one is taken.
                coming = under_way.create_task(self._next_page(bus))
                async for some in self._precedence.slices(envelopes):
                    for envelope in some:
                        self.take(envelope, is_vouched_for=bus.vouches)
                if self._delivery is not None:
                    await self._delivery.save()
                await settled
                settled = under_way.create_task(bus.acknowledge(GROUP, [each.event_id for each in envelopes]))

    async def _next_page(self, bus: Bus) -> list[BusEnvelope]:
        """What comes next, as soon as there is something."""
        while True:
            seen = await bus.last_sequence()
            if envelopes := await bus.fetch(GROUP, GROUP, LANES, PAGE):
                return envelopes
            await bus.wait(seen, ASK_S, LANES, GROUP)

    async def follow_time(self, period_s: float = WAIT_S) -> None:
        """Clear for ever what clears by time alone."""
        while True:
            self._announce(self.alerts.pass_time())
            if self._delivery is not None:
                await self._delivery.save()
            await asyncio.sleep(period_s)

    def take(self, envelope: BusEnvelope, *, is_vouched_for: bool = False) -> None:
        """Take one envelope. One that can't be believed is counted and left: trying again would not help."""
        taker = self._takers.get(envelope.payload_type)
        if taker is None:
            return
        began = time.perf_counter()
        try:
            if is_vouched_for:
                check_kept(self._keyring, envelope)
            else:
                check(self._keyring, envelope, self._clock.now_ns())
                require_valid_payload(envelope)
            taker(envelope)
        except (EsperError, DecodeError) as error:
            metrics.REFUSED.inc()
            log.error("envelope %s from %s refused: %s", envelope.event_id, envelope.source, error)
        _latency_of(envelope.payload_type).observe((time.perf_counter() - began) * 1e3)

    def _take_packet(self, envelope: BusEnvelope) -> None:
        packet = TelemetryPacket.FromString(envelope.payload)
        if not envelope.HasField("trace"):
            return self._count(packet)
        attributes = span_attributes("process", packet)
        with _tracer.start_as_current_span("nissa.ingest", context_of(envelope.trace), attributes=attributes):
            return self._count(packet)

    def _count(self, packet: TelemetryPacket) -> None:
        _packets_of(packet.source, packet.priority).inc()
        measured_ns = packet.time.ToNanoseconds()
        for each in packet.metrics:
            self.series.put(each, packet.source, packet.training_run_id, measured_ns)
        for each_event in packet.events:
            level = short_name(TelemetryLevel, each_event.level).lower()
            metrics.TELEMETRY_EVENTS.labels(packet.source, each_event.name, level).inc()
        self._announce(self.alerts.judge(packet))
        if any(each_event.name == FINISHED for each_event in packet.events):
            self.series.end(packet.training_run_id)

    def _take_report(self, envelope: BusEnvelope) -> None:
        report = FieldReport.FromString(envelope.payload)
        outcome = short_name(FieldReportOutcome, report.outcome).lower()
        metrics.FIELD_REPORTS.labels(outcome).inc()

    def summary(self) -> TelemetryPacket:
        """Every metric of Nissa."""
        return build_packet("nissa", self._clock, metrics=self._measurements())

    def _announce(self, changes: Sequence[Change]) -> None:
        """Tell of alerts, by telemetry of Nissa's own, and to whoever takes them."""
        if changes and self._delivery is not None:
            self._delivery.take(changes)
        for run in dict.fromkeys(change.alert.run for change in changes):
            events = [self._event(change) for change in changes if change.alert.run == run]
            self._tell(build_packet("nissa", self._clock, metrics=self._measurements(), events=events, run=run or None))

    def _measurements(self) -> list[Metric]:
        return [
            metric(metrics.ALERTS_ACTIVE, len(self.alerts.standing)),
            metric(metrics.SERIES_EVICTED, self.series.evicted),
            *(self._delivery.measurements() if self._delivery is not None else ()),
        ]

    def _event(self, change: Change) -> Event:
        alert = change.alert
        told: dict[str, AttributeValue] = {"rule": alert.rule, "source": alert.source, "value": change.value}
        told |= {"event": alert.event} if alert.event else {}
        if not change.is_raised:
            return event(metrics.ALERT_CLEARED, self._clock, change.why or None, **told)
        told |= {"threshold": alert.threshold, "severity": alert.severity, "routes": ",".join(alert.routes)}
        return event(metrics.ALERT_RAISED, self._clock, alert.help, **told)
