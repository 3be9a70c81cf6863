"""What Weatherlight reports of itself and of the bus that it hosts, every so often."""

from __future__ import annotations

import asyncio

from esper.core.clock import NS_PER_S, Clock
from esper.core.enums import short_name
from esper.core.telemetry import build_packet, metric
from esper.leyline import BusLane, TelemetryPacket
from esper.nissa.ingest import Ingestor
from esper.oona import metrics as oona_metrics
from esper.oona.bus import LANES, Bus
from esper.urza import metrics as urza_metrics
from esper.weatherlight import metrics
from esper.weatherlight.duties import Duties
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.routing import Router
from esper.weatherlight.supervision.supervisor import Supervisor


class Summary:
    """Reports on the service itself, on the bus that it hosts, on Urza's answers there and on Nissa."""

    def __init__(
        self, supervisor: Supervisor, duties: Duties, bus: Bus, kernels: Kernels, nissa: Ingestor, clock: Clock
    ) -> None:
        self._supervisor = supervisor
        self._duties = duties
        self._bus = bus
        self._kernels = kernels
        self._nissa = nissa
        self._clock = clock
        self._started_ns = clock.monotonic_ns()

    async def run(self, period_s: float) -> None:
        """Report for ever."""
        while True:
            await self.flush()
            await asyncio.sleep(period_s)

    async def flush(self) -> None:
        """Report now."""
        depths = {lane: await self._bus.depth(lane) for lane in LANES}
        uptime_s = (self._clock.monotonic_ns() - self._started_ns) / NS_PER_S
        dead = await self._bus.dead_letter_count()
        await self._supervisor.router.take(
            [
                own_summary(self._supervisor, self._duties, self._clock, uptime_s),
                bus_summary(self._supervisor.router, self._clock, depths, dead),
                urza_summary(self._kernels, self._clock),
                self._nissa.summary(),
            ]
        )


def own_summary(supervisor: Supervisor, duties: Duties, clock: Clock, uptime_s: float) -> TelemetryPacket:
    """Every metric of Weatherlight."""
    standings = duties.standings
    backing_off = sum(standing.backoff_s > 0 for standing in standings.values())
    counts, services = supervisor.router.counts, supervisor.registry.statuses()
    values = {
        metrics.UPTIME: uptime_s,
        metrics.TASKS_RUNNING: len(standings) - backing_off,
        metrics.TASKS_BACKING_OFF: backing_off,
        metrics.SERVICES_REGISTERED: len(services),
        metrics.SERVICES_LOST: sum(service.is_lost for service in services),
        metrics.MODE: int(supervisor.mode().mode),
        metrics.PACKETS: counts.packets,
        metrics.PACKETS_REFUSED: counts.refused,
        metrics.PACKETS_DUPLICATE: counts.duplicates,
        metrics.PACKETS_DROPPED: counts.dropped_by_senders,
        metrics.CRITICAL_PACKETS: counts.critical,
        **supervisor.emergency_values(),
        metrics.ROLLBACK_LATENCY: supervisor.rollback_latency_ms,
    }
    measured = [metric(spec, value) for spec, value in values.items()]
    for task, standing in standings.items():
        measured.append(metric(metrics.DUTY_RESTARTS, standing.restarts, task=task))
        measured.append(metric(metrics.DUTY_BACKOFF, standing.backoff_s, task=task))
    return build_packet("weatherlight", clock, metrics=measured)


def bus_summary(router: Router, clock: Clock, depths: dict[BusLane, int], dead: int) -> TelemetryPacket:
    """Every metric of the bus."""
    counts = router.counts
    measured = [metric(oona_metrics.QUEUE_DEPTH, depth, lane=lane_name(lane)) for lane, depth in depths.items()]
    measured += [
        metric(oona_metrics.PUBLISHED, counts.published),
        metric(oona_metrics.PUBLISH_DROPPED, counts.turned_away),
        metric(oona_metrics.DEAD_LETTERS, dead),
        metric(oona_metrics.PUBLISH_LATENCY, counts.publish_latency_ms),
        *(metric(oona_metrics.GROUP_LOST, lost, group=group) for group, lost in counts.lost.items()),
    ]
    return build_packet("oona", clock, metrics=measured)


def urza_summary(kernels: Kernels, clock: Clock) -> TelemetryPacket:
    """Every metric of Urza."""
    measured = [metric(urza_metrics.ANSWERED, kernels.answered), metric(urza_metrics.REFUSED, kernels.refused)]
    fates = kernels.worker.counts.by_fate().items()
    measured += [metric(urza_metrics.WORKER_CALLS, count, fate=fate) for fate, count in fates]
    return build_packet("urza", clock, metrics=measured)


def lane_name(lane: BusLane) -> str:
    """Such as `normal`, `telemetry` or `kernel_answers`."""
    return short_name(BusLane, lane).lower()
