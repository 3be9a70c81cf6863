from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future

import pytest

from esper.core.errors import AsyncTimeoutError, ConfigError, EsperError
from esper.core.worker import AsyncWorker, WorkerConfig

FOREVER_S = 3600.0
PATIENCE_S = 20.0


async def forever() -> None:
    await asyncio.sleep(FOREVER_S)


async def answer() -> int:
    return 42


def test_a_coroutine_runs_and_its_result_comes_back() -> None:
    with AsyncWorker() as worker:
        assert worker.submit(answer, name="answer", timeout_s=PATIENCE_S).result(PATIENCE_S) == 42
    assert worker.stats().completed == 1


def test_an_exception_comes_back_as_it_was() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with AsyncWorker() as worker, pytest.raises(KeyError, match="mine"):
        worker.submit(fail, name="fail", timeout_s=PATIENCE_S).result(PATIENCE_S)
    assert worker.stats().failed == 1


def test_a_late_task_is_cancelled_and_says_so() -> None:
    ended = threading.Event()

    async def late() -> None:
        try:
            await forever()
        finally:
            ended.set()

    with AsyncWorker() as worker:
        with pytest.raises(AsyncTimeoutError, match=r"late took longer than 0\.02 s") as refused:
            worker.submit(late, name="late", timeout_s=0.02).result(PATIENCE_S)
        assert isinstance(refused.value, TimeoutError)
        assert ended.wait(PATIENCE_S)
    assert worker.stats().timed_out == 1


def test_a_timeout_counts_the_wait_for_a_slot() -> None:
    with AsyncWorker(WorkerConfig(max_concurrency=1)) as worker:
        worker.submit(forever, name="first", timeout_s=FOREVER_S)
        with pytest.raises(AsyncTimeoutError):
            worker.submit(answer, name="queued", timeout_s=0.02).result(PATIENCE_S)


def test_a_timeout_error_of_the_task_itself_is_not_the_workers() -> None:
    async def fail() -> None:
        raise TimeoutError("inside")

    with AsyncWorker() as worker, pytest.raises(TimeoutError, match="inside") as raised:
        worker.submit(fail, name="fail", timeout_s=PATIENCE_S).result(PATIENCE_S)
    assert not isinstance(raised.value, AsyncTimeoutError)


def test_no_more_tasks_run_at_a_time_than_allowed() -> None:
    running, most = 0, 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    with AsyncWorker(WorkerConfig(max_concurrency=3)) as worker:
        handles = [worker.submit(count, name="count", timeout_s=PATIENCE_S) for _ in range(50)]
        for handle in handles:
            handle.result(PATIENCE_S)
    assert most == 3


def test_a_handle_can_be_cancelled_and_is_counted() -> None:
    started = threading.Event()

    async def wait() -> None:
        started.set()
        await forever()

    with AsyncWorker() as worker:
        handle = worker.submit(wait, name="wait", timeout_s=FOREVER_S)
        assert started.wait(PATIENCE_S)
        assert handle.cancel()
        with pytest.raises(CancelledError):
            handle.result(PATIENCE_S)
    assert worker.stats().cancelled == 1


def test_a_blocking_call_runs_in_a_thread_of_its_own() -> None:
    with AsyncWorker() as worker:
        name = worker.submit_blocking(
            lambda: threading.current_thread().name, name="call", timeout_s=PATIENCE_S
        ).result(PATIENCE_S)
    assert name == "call"


def test_a_late_blocking_call_keeps_its_slot_until_it_ends() -> None:
    release = threading.Event()
    with AsyncWorker(WorkerConfig(max_concurrency=1)) as worker:
        with pytest.raises(AsyncTimeoutError):
            worker.submit_blocking(lambda: release.wait(PATIENCE_S), name="call", timeout_s=0.02).result(PATIENCE_S)
        following = worker.submit(answer, name="next", timeout_s=PATIENCE_S)
        assert not following.done()
        release.set()
        assert following.result(PATIENCE_S) == 42


def test_closing_resolves_every_handle_also_of_tasks_that_never_started() -> None:
    worker = AsyncWorker(WorkerConfig(max_concurrency=1))
    handles: list[Future[None]] = [worker.submit(forever, name="f", timeout_s=FOREVER_S) for _ in range(20)]
    worker.close()
    assert all(handle.cancelled() for handle in handles)
    stats = worker.stats()
    assert (stats.submitted, stats.cancelled) == (20, 20)


def test_closing_does_not_wait_out_its_patience() -> None:
    # Where it does, this test never ends.
    worker = AsyncWorker(WorkerConfig(shutdown_timeout_s=FOREVER_S))
    handle = worker.submit(forever, name="f", timeout_s=FOREVER_S)
    worker.close()
    assert handle.cancelled()


def test_a_task_that_ignores_cancellation_does_not_hold_up_closing() -> None:
    started = threading.Event()

    async def stubborn() -> None:
        while True:
            started.set()
            try:
                await forever()
            except asyncio.CancelledError:
                continue

    worker = AsyncWorker(WorkerConfig(shutdown_timeout_s=0.1))
    handle = worker.submit(stubborn, name="stubborn", timeout_s=FOREVER_S)
    assert started.wait(PATIENCE_S)
    worker.close()
    assert handle.done()


def test_a_task_that_blocks_the_loop_does_not_hold_up_closing() -> None:
    started, release = threading.Event(), threading.Event()

    async def blocking() -> None:
        started.set()
        release.wait(PATIENCE_S)

    worker = AsyncWorker(WorkerConfig(shutdown_timeout_s=0.1))
    handle = worker.submit(blocking, name="blocking", timeout_s=FOREVER_S)
    assert started.wait(PATIENCE_S)
    worker.close()
    assert handle.cancelled()
    release.set()


def test_a_closed_worker_takes_nothing_and_may_be_closed_again() -> None:
    worker = AsyncWorker()
    worker.close()
    worker.close()
    with pytest.raises(EsperError, match="closed"):
        worker.submit(answer, name="late", timeout_s=1)


@pytest.mark.parametrize("settings", [{"max_concurrency": 0}, {"shutdown_timeout_s": 0.0}])
def test_limits_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        WorkerConfig(**settings)
