"""Urza at the bus: each request is answered once, and what can't be believed or is nobody's isn't."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from esper.core.clock import ManualClock, timestamp
from esper.core.security.keys import Keyring
from esper.leyline import (
    BusEnvelope,
    BusLane,
    KernelArtifactError,
    KernelArtifactReady,
    KernelPrefetchRequest,
    MessagePriority,
)
from esper.oona.envelope import seal
from esper.oona.log import SqliteLog
from esper.urza.artifacts import ArtifactStore
from esper.weatherlight.kernels import STALE_S, Kernels
from esper.weatherlight.routing import Router
from esper.weatherlight.summary import urza_summary
from tests.unit.urza.own.making import described, stored

KEYS = Keyring.from_secret("correct horse battery staple 0123456789 abcdef")
NORMAL = MessagePriority.MESSAGE_PRIORITY_NORMAL


class Plane:
    """A bus in a file, and Urza at it."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(now_ns=1_800_000_000 * 10**9)
        self.bus = SqliteLog(path / "oona.db", self.clock)
        self.own = stored(described(path), path / "artifacts")
        self.kernels = Kernels(ArtifactStore(path / "artifacts"), Router(self.bus, KEYS, self.clock), KEYS, self.clock)

    def request(self, number: int, digest: str | None = None, keys: Keyring = KEYS) -> BusEnvelope:
        wanted = KernelPrefetchRequest(
            request_id=f"p{number}",
            blueprint_id="lab.gated",
            training_run_id="r",
            digest=digest or self.own.artifact.digest,
            issued_at=timestamp(self.clock.now_ns()),
        )
        lane = BusLane.BUS_LANE_KERNEL_REQUESTS
        return seal(keys, self.clock, wanted, source="kasmina", lane=lane, priority=NORMAL, event_id=f"p{number}")

    async def answers(self, count: int) -> list[BusEnvelope]:
        """What is answered; Urza runs for that long."""
        running = asyncio.create_task(self.kernels.run(self.bus))
        try:
            while len(found := await self.bus.read([BusLane.BUS_LANE_KERNEL_ANSWERS], 0, 100)) < count:
                assert not running.done()
                await asyncio.sleep(0.005)
            return found
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    made = Plane(tmp_path)
    yield made
    made.kernels.worker.close()
    await made.bus.close()


async def test_many_requests_are_each_answered_once_also_after_a_restart(plane: Plane) -> None:
    await plane.bus.publish([plane.request(number) for number in range(40)])
    answers = await plane.answers(40)
    told = [KernelArtifactReady.FromString(envelope.payload) for envelope in answers]
    assert {each.request_id for each in told} == {f"p{number}" for number in range(40)}
    assert {each.artifact.digest for each in told} == {plane.own.artifact.digest}
    await plane.bus.publish([plane.request(40)])
    assert len(await plane.answers(41)) == 41
    assert plane.kernels.worker.counts.pending == 0


async def test_a_missing_artefact_is_an_answer_too(plane: Plane) -> None:
    await plane.bus.publish([plane.request(1, digest="0" * 64)])
    (envelope,) = await plane.answers(1)
    assert "0" * 64 in KernelArtifactError.FromString(envelope.payload).reason


async def test_a_forged_request_is_counted_and_a_stale_one_is_nobodys(plane: Plane) -> None:
    stale = plane.request(1)
    plane.clock.advance(STALE_S + 1)
    forged = plane.request(2, keys=Keyring.from_secret("another battery staple 0123456789 abcdefgh ij"))
    await plane.bus.publish([stale, forged, plane.request(3)])
    (answered,) = await plane.answers(1)
    assert answered.event_id == "p3-answer"
    assert (plane.kernels.answered, plane.kernels.refused) == (1, 1)
    values = {each.name: each.value for each in urza_summary(plane.kernels, plane.clock).metrics}
    assert values["urza.prefetch.answered_total"] == values["urza.prefetch.refused_total"] == 1
