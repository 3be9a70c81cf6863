"""What Weatherlight reports of itself and of the bus that it hosts, every so often."""

from __future__ import annotations

import asyncio

from esper.core.clock import NS_PER_S, Clock
from esper.core.enums import short_name
from esper.core.telemetry import build_packet, metric
from esper.leyline import BusLane, TelemetryPacket
from esper.oona import metrics as oona_metrics
from esper.oona.bus import LANES, Bus
from esper.urza import metrics as urza_metrics
from esper.weatherlight import metrics
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.routing import Router
from esper.weatherlight.supervisor import Supervisor


async def summarise(supervisor: Supervisor, bus: Bus, kernels: Kernels, clock: Clock, period_s: float) -> None:
    """Report on the service itself, on the bus that it hosts and on Urza's answers there."""
    started_ns = clock.monotonic_ns()
    while True:
        depths = {lane: await bus.depth(lane) for lane in LANES}
        uptime_s = (clock.monotonic_ns() - started_ns) / NS_PER_S
        dead = await bus.dead_letter_count()
        await supervisor.router.take(
            [
                own_summary(supervisor, clock, uptime_s),
                bus_summary(supervisor.router, clock, depths, dead),
                urza_summary(kernels, clock),
            ]
        )
        await asyncio.sleep(period_s)


def own_summary(supervisor: Supervisor, clock: Clock, uptime_s: float) -> TelemetryPacket:
    """Every metric of Weatherlight."""
    counts, services = supervisor.router.counts, supervisor.registry.statuses()
    values = {
        metrics.UPTIME: uptime_s,
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
    return build_packet("weatherlight", clock, metrics=[metric(spec, value) for spec, value in values.items()])


def bus_summary(router: Router, clock: Clock, depths: dict[BusLane, int], dead: int) -> TelemetryPacket:
    """Every metric of the bus."""
    counts = router.counts
    measured = [metric(oona_metrics.QUEUE_DEPTH, depth, lane=lane_name(lane)) for lane, depth in depths.items()]
    measured += [
        metric(oona_metrics.PUBLISHED, counts.published),
        metric(oona_metrics.PUBLISH_DROPPED, counts.turned_away),
        metric(oona_metrics.DEAD_LETTERS, dead),
        metric(oona_metrics.PUBLISH_LATENCY, counts.publish_latency_ms),
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
