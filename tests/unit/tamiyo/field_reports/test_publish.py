from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from esper.core.errors import ServiceUnavailable
from esper.leyline import FieldReport
from esper.tamiyo.field_reports import publish
from esper.tamiyo.field_reports.publish import BATCH, Publisher
from esper.tamiyo.field_reports.report_log import ReportLog
from tests.unit.tamiyo.field_reports.test_report_log import done, log_at, report


class FakeBus:
    """Takes reports, unless it is down."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failures = 0
        self.failure: Exception = ServiceUnavailable("tamiyo", "service", "bus", "it is down")
        self.arrived = asyncio.Event()

    async def publish(self, batch: Sequence[FieldReport]) -> None:
        if self.failures:
            self.failures -= 1
            raise self.failure
        self.batches.append([item.report_id for item in batch])
        self.arrived.set()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[ReportLog]:
    made = log_at(tmp_path)
    yield made
    made.close()


async def test_closed_reports_go_out_in_order_in_batches_and_once(log: ReportLog) -> None:
    bus = FakeBus()
    publisher = Publisher(log, bus.publish, retry_s=0.001, on_retry=lambda pending: None)
    await log.put([done(report(number)) for number in range(BATCH + 1)])
    await log.put([report(999)])
    await publisher.flush()
    await publisher.flush()
    assert [len(batch) for batch in bus.batches] == [BATCH, 1]
    assert bus.batches[0][0] == "fr-0"
    assert bus.batches[1] == [f"fr-{BATCH}"]
    assert publisher.published == BATCH + 1
    assert log.unpublished() == []


async def test_what_an_earlier_process_left_is_published_at_start(log: ReportLog) -> None:
    bus = FakeBus()
    await log.put([done(report(1))])
    publisher = Publisher(log, bus.publish, retry_s=0.001, on_retry=lambda pending: None)
    publisher.start()
    await bus.arrived.wait()
    await publisher.close()
    assert bus.batches == [["fr-1"]]


@pytest.mark.parametrize("failure", [None, TypeError("nobody foresaw it")])
async def test_a_bus_that_is_down_is_tried_again_and_nothing_is_dropped(
    log: ReportLog, failure: Exception | None
) -> None:
    bus, waits = FakeBus(), []
    bus.failures, bus.failure = 3, failure or bus.failure
    await log.put([done(report(1)), done(report(2))])
    publisher = Publisher(log, bus.publish, retry_s=0.001, on_retry=waits.append)
    publisher.start()
    await bus.arrived.wait()
    await publisher.close()
    assert waits == [2]  # an outage is told once
    assert publisher.retries == 3
    assert bus.batches == [["fr-1", "fr-2"]]


async def test_a_flush_on_demand_says_that_the_bus_is_down(log: ReportLog) -> None:
    bus = FakeBus()
    bus.failures = 1
    await log.put([done(report(1))])
    with pytest.raises(ServiceUnavailable):
        await Publisher(log, bus.publish, retry_s=0.001, on_retry=lambda pending: None).flush()
    assert len(log.unpublished()) == 1


async def test_a_bus_that_stays_away_is_asked_again_within_seconds(
    log: ReportLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus, pauses, sleep = FakeBus(), list[float](), asyncio.sleep
    bus.failures = 8

    async def slept(pause_s: float) -> None:
        pauses.append(pause_s)
        await sleep(0)

    monkeypatch.setattr(publish, "sleep", slept)
    await log.put([done(report(1))])
    publisher = Publisher(log, bus.publish, retry_s=1.0, on_retry=lambda pending: None)
    publisher.start()
    await bus.arrived.wait()
    await publisher.close()
    assert pauses == [1.0, 2.0, 4.0, *[5.0] * 5]
    assert [record.getMessage() for record in caplog.records] == [
        "1 field report kept for the bus, tried again every 5 s at most: tamiyo: service 'bus' is missing; it is down"
    ]
