"""Duties that fail begin anew, and the service says that it isn't ready meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from esper.core.errors import BackPressure, StorageError
from esper.weatherlight.duties import Duties, RestartPace


@pytest.mark.parametrize("failure", [BackPressure("the lane is full", 1.0), TypeError("nobody foresaw it"), None])
async def test_a_duty_that_ends_begins_anew_and_its_cause_is_told_once(
    failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    duties, began = Duties(RestartPace(retry_s=0.01)), asyncio.Queue[int]()

    async def duty() -> None:
        began.put_nowait(1)
        if began.qsize() <= 3:
            if failure is not None:
                raise failure
            return
        await asyncio.Event().wait()

    duties.take_on("ingest", duty)
    async with asyncio.timeout(10):
        while began.qsize() < 1 or duties.are_well:
            await asyncio.sleep(0)
        while not duties.are_well:
            await asyncio.sleep(0.001)
    assert began.qsize() == 4
    (record,) = caplog.records
    assert "duty ingest ended" in record.getMessage()
    assert record.exc_info is None or record.exc_info[1] is failure
    await duties.close()


async def test_the_first_cause_is_trouble_until_the_duty_works_again(caplog: pytest.LogCaptureFixture) -> None:
    duties, failures = Duties(RestartPace(retry_s=0.01)), iter(["wait failed", "fetch failed"])
    caplog.set_level("INFO", "esper.weatherlight")
    seen: list[str] = []

    async def duty() -> None:
        if why := next(failures, None):
            raise StorageError(why)
        await asyncio.Event().wait()

    assert duties.trouble() is None
    duties.when_failing(lambda name, cause, pause_s: seen.append(duties.trouble() or "none"))
    duties.take_on("ingest", duty)
    async with asyncio.timeout(10):
        while len(seen) < 2 or duties.trouble():
            await asyncio.sleep(0.001)
    assert seen == 2 * ["duty ingest can't be done: wait failed"]
    assert caplog.messages[-1] == "duty ingest works again"
    await duties.close()


async def test_closing_ends_every_duty() -> None:
    duties, ended = Duties(), asyncio.Event()

    async def duty() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    duties.take_on("ingest", duty)
    await asyncio.sleep(0)
    await duties.close()
    assert ended.is_set()


async def test_a_failure_of_ours_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise StorageError("oona.db is full")

    duties = Duties(RestartPace(retry_s=30.0, max_retry_s=30.0, jitter=0.0))
    duties.take_on("trim", fail)
    async with asyncio.timeout(10):
        while not caplog.records:
            await asyncio.sleep(0.01)
    await duties.close()
    (record,) = caplog.records
    assert record.getMessage() == "duty trim ended, begins anew in 30 s: oona.db is full"
    assert record.exc_info is None


async def test_a_failure_of_ours_in_a_task_of_the_duty_is_one_line_too(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise StorageError("oona.db is full")

    async def duty() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    duties = Duties(RestartPace(retry_s=30.0, max_retry_s=30.0, jitter=0.0))
    duties.take_on("ingest", duty)
    async with asyncio.timeout(10):
        while not caplog.records:
            await asyncio.sleep(0.001)
    await duties.close()
    (record,) = caplog.records
    assert record.getMessage().endswith(": oona.db is full")
    assert record.exc_info is None


async def test_pauses_double_up_to_a_limit_are_jittered_and_begin_anew_after_a_healthy_time() -> None:
    lives = iter([0.0, 0.0, 0.0, 0.0, 60.0, 0.0])  # the fifth is healthy
    now_s = 0.0
    pauses: list[float] = []
    ended = asyncio.Event()

    async def duty() -> None:
        nonlocal now_s
        life_s = next(lives, None)
        if life_s is None:
            ended.set()
            await asyncio.Event().wait()
        now_s += life_s or 0.0
        raise StorageError("again")

    pace = RestartPace(retry_s=0.01, max_retry_s=0.04, jitter=0.5, healthy_s=60.0)
    duties = Duties(pace, lambda name, cause, pause_s: pauses.append(pause_s), chance=lambda: 1.0, now_s=lambda: now_s)
    duties.take_on("ingest", duty)
    async with asyncio.timeout(10):
        await ended.wait()
    assert pauses == pytest.approx([0.015, 0.03, 0.06, 0.06, 0.015, 0.03])
    assert duties.standings["ingest"].restarts == 6
    await duties.close()


async def test_each_failure_is_told_with_its_cause_and_how_a_duty_stands_can_be_seen() -> None:
    told: list[tuple[str, str]] = []

    async def fail() -> None:
        raise StorageError("oona.db is full")

    duties = Duties(RestartPace(retry_s=30.0, max_retry_s=30.0))
    duties.when_failing(lambda name, cause, pause_s: told.append((name, cause)))
    duties.take_on("trim", fail)
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.01)
    assert told == [("trim", "oona.db is full")]
    standing = duties.standings["trim"]
    assert (standing.restarts, standing.is_well) == (1, False)
    assert 30.0 <= standing.backoff_s <= 37.5
    await duties.close()


async def test_what_a_duty_uses_may_be_closed_after_it() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            done.append("work")

    duties = Duties()
    duties.take_on("ingest", work)
    await asyncio.sleep(0.01)
    await duties.close()
    assert done == ["work"]
