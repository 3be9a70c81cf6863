"""What Weatherlight reports of itself: every metric that it registers, and how its duties fare."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from esper.core.errors import ServiceUnavailable, StorageError
from esper.core.telemetry import attribute_value, build_packet
from esper.leyline import TelemetryLevel, TelemetryPacket
from esper.nissa import metrics as nissa_metrics
from esper.nissa.ingest import Ingestor
from esper.oona import metrics as oona_metrics
from esper.urza import metrics as urza_metrics
from esper.urza.artifacts import ArtifactStore
from esper.weatherlight import metrics
from esper.weatherlight.duties import Duties, RestartPace
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.routing import Taken
from esper.weatherlight.server import MOST_WAITING, Outgoing, tell_failure
from esper.weatherlight.summary import Summary
from tests.unit.weatherlight.conftest import KEYRING, Plane


async def test_a_report_has_every_metric_and_how_each_duty_fares(plane: Plane) -> None:
    outgoing = Outgoing()
    duties = Duties(RestartPace(retry_s=30.0, max_retry_s=30.0, jitter=0.0))
    duties.when_failing(lambda *failure: tell_failure(outgoing, plane.clock, *failure))
    duties.take_on("trim", fail)
    duties.take_on("sweep", asyncio.Event().wait)  # type: ignore[arg-type]
    kernels = Kernels(ArtifactStore(None), plane.router, KEYRING, plane.clock)
    nissa = Ingestor(KEYRING, plane.clock, outgoing.put)
    async with asyncio.timeout(10):
        while not len(outgoing):
            await asyncio.sleep(0.001)
    await outgoing.flush(plane.router)
    (told,) = await plane.events()
    assert (told.name, told.level) == ("worker_error", TelemetryLevel.TELEMETRY_LEVEL_WARNING)
    assert told.message == "oona.db is full"
    assert {each.key: attribute_value(each) for each in told.attributes} == {"task": "trim", "pause_s": 30.0}

    plane.router.counts.lost["gone"] = 3
    await Summary(plane.supervisor, duties, plane.bus, kernels, nissa, plane.clock).flush()
    measured = [each for packet in await plane.packets() for each in packet.metrics]
    delivery = {spec.name for spec in nissa_metrics.METRICS if spec.name.startswith("nissa.delivery")}
    registries = (metrics, oona_metrics, urza_metrics, nissa_metrics)
    assert {each.name for each in measured} == {spec.name for each in registries for spec in each.METRICS} - delivery
    by_task = {
        (each.name.rpartition(".")[2], attribute_value(each.attributes[0])): each.value
        for each in measured
        if each.name.startswith("weatherlight.tasks.") and each.attributes
    }
    assert by_task == {
        ("restarts_total", "trim"): 1.0,
        ("backoff_s", "trim"): 30.0,
        ("restarts_total", "sweep"): 0.0,
        ("backoff_s", "sweep"): 0.0,
    }
    values = {each.name: each.value for each in measured}
    assert (values["weatherlight.tasks.running"], values["weatherlight.tasks.backing_off"]) == (1.0, 1.0)
    await duties.close()
    kernels.worker.close()


async def test_failures_that_nobody_takes_do_not_pile_up(plane: Plane) -> None:
    outgoing = Outgoing()
    for _ in range(MOST_WAITING + 10):
        tell_failure(outgoing, plane.clock, "forward", "the lane is full", 30.0)
    assert len(outgoing) == MOST_WAITING


async def test_what_the_bus_does_not_take_waits_in_order_until_it_does(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    outgoing, packets = Outgoing(), [build_packet("nissa", plane.clock) for _ in range(3)]

    async def unreachable(packets: Sequence[TelemetryPacket]) -> Taken:
        raise ServiceUnavailable("oona", "bus", "redis", "publish failed")

    for packet in packets:
        outgoing.put(packet)
    with monkeypatch.context() as away:
        away.setattr(plane.router, "take", unreachable)
        with pytest.raises(ServiceUnavailable):
            await outgoing.forward(plane.router)
    forwarding = asyncio.create_task(outgoing.forward(plane.router))
    async with asyncio.timeout(10):
        while len(outgoing):
            await asyncio.sleep(0.001)
    forwarding.cancel()
    assert await plane.packets() == packets


async def fail() -> None:
    raise StorageError("oona.db is full")
