"""Streams that are heard for ever, and what is told of those that can't be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import AsyncTimeoutError, ServiceUnavailable
from esper.core.process.outage import TOLD_EVERY_S, Outage

log = logging.getLogger("esper.test.outage")
AWAY = ServiceUnavailable("oona", "bus", "b", "it is away")


async def test_what_fails_again_is_told_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    outage = Outage(log, clock)
    for _ in range(4):
        outage.warn("the bus can't be heard", AWAY)
    outage.warn("nothing can be published", AWAY)
    clock.advance(TOLD_EVERY_S)
    outage.warn("the bus can't be heard", AWAY)
    assert [record.getMessage() for record in caplog.records] == [
        f"the bus can't be heard: {AWAY}",
        f"nothing can be published: {AWAY}",
        "the bus can't be heard, 3 times more",
        f"the bus can't be heard: {AWAY}",
    ]


async def test_a_stream_is_opened_again_however_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    def ends_with(error: Exception | None) -> Callable[[], None]:
        def end() -> None:
            if error is not None:
                raise error

        return end

    ends = [ends_with(each) for each in (None, AWAY, AsyncTimeoutError("consume", 1.0), KeyError("a fault"))]
    heard_all = asyncio.Event()

    async def hear() -> None:
        if not ends:
            heard_all.set()
            await asyncio.Event().wait()
        ends.pop(0)()

    hearing = asyncio.create_task(Outage(log, ManualClock()).outlasted(hear, "updates can't be heard", 0.0))
    await heard_all.wait()
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"updates can't be heard: {AWAY}"),
        ("ERROR", "updates can't be heard: 'a fault'"),
    ]
