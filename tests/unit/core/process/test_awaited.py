"""What another thread does, awaited."""

import asyncio
from concurrent.futures import Future

import pytest

from esper.core.process.awaited import awaited


async def begun(waiting: "asyncio.Task[object]") -> None:
    """Until it waits."""
    await asyncio.sleep(0)
    assert not waiting.done()


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_result_is_followed_up_before_whoever_waits_goes_on(is_late: bool) -> None:
    work, told = Future[int](), list[int]()
    if not is_late:
        work.set_result(3)
    waiting = asyncio.create_task(awaited(work, told.append))
    if is_late:
        await begun(waiting)
        await asyncio.to_thread(work.set_result, 3)
    assert await waiting == 3
    assert told == [3]


async def test_an_error_comes_through_and_nothing_follows_it() -> None:
    work, told = Future[int](), list[int]()
    waiting = asyncio.create_task(awaited(work, told.append))
    await begun(waiting)
    await asyncio.to_thread(work.set_exception, OSError("no disk"))
    with pytest.raises(OSError, match="no disk"):
        await waiting
    assert told == []


async def test_work_that_has_not_begun_is_cancelled_with_who_waits_for_it() -> None:
    work, told = Future[int](), list[int]()
    waiting = asyncio.create_task(awaited(work, told.append))
    await begun(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert (work.cancelled(), told) == (True, [])


async def test_work_that_goes_on_is_followed_up_though_nobody_waits_any_more() -> None:
    work, told = Future[int](), list[int]()
    work.set_running_or_notify_cancel()
    waiting = asyncio.create_task(awaited(work, told.append))
    await begun(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(work.set_result, 3)
    await asyncio.sleep(0)
    assert told == [3]


async def test_a_follow_up_that_fails_keeps_nobody_waiting() -> None:
    work, raised = Future[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context["exception"]))
    waiting = asyncio.create_task(awaited(work, lambda result: 1 // 0))
    await begun(waiting)
    await asyncio.to_thread(work.set_result, 3)
    assert await waiting == 3
    assert [type(error) for error in raised] == [ZeroDivisionError]


def test_a_loop_that_is_closed_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    work = Future[int]()

    async def gives_up() -> None:
        work.set_running_or_notify_cancel()
        await asyncio.wait([asyncio.create_task(awaited(work))], timeout=0)

    asyncio.run(gives_up())
    work.set_result(3)
    assert caplog.records == []
