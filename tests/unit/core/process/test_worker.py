from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from esper.core.errors import AsyncTimeoutError, BackPressure, ConfigError, ServiceUnavailable
from esper.core.process.worker import AsyncWorker, Counts

PATIENCE_S = 20.0


class Hanging:
    """Calls that hang until they are let go, and how many hung at once."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.entered = threading.Semaphore(0)
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.entered.release()
        self.go_on.wait(PATIENCE_S)
        with self._lock:
            self.running -= 1
        return "done"


def deadlines() -> Iterator[float]:
    """Longer and longer ones, seconds: with each a call is made again, until one was under way when it was late."""
    timeout_s = 0.02
    while timeout_s < PATIENCE_S:
        yield timeout_s
        timeout_s *= 4
    pytest.fail("no call was begun in time")


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    calls = Hanging()
    yield calls
    calls.go_on.set()


async def test_a_call_runs_in_a_thread_of_its_own_and_its_result_comes_back() -> None:
    name = await AsyncWorker().run(lambda: threading.current_thread().name, name="mine", timeout_s=PATIENCE_S)
    assert name == "mine"


async def test_an_exception_comes_back_as_it_was() -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await AsyncWorker().run(fail, name="fail", timeout_s=PATIENCE_S)


async def test_a_late_call_says_so_and_keeps_its_place_until_it_ends(hanging: Hanging) -> None:
    for timeout_s in deadlines():
        worker, cut = AsyncWorker(max_concurrency=1), threading.Event()
        with pytest.raises(AsyncTimeoutError, match=f"late took longer than {timeout_s:g} s") as refused:
            await worker.run(hanging, name="late", timeout_s=timeout_s, on_late=cut.set)
        assert isinstance(refused.value, TimeoutError)
        if cut.is_set():
            break
    with pytest.raises(AsyncTimeoutError, match="queued"):
        await worker.run(lambda: None, name="queued", timeout_s=0.02)
    hanging.go_on.set()
    assert await worker.run(lambda: 42, name="next", timeout_s=PATIENCE_S) == 42


async def test_a_timeout_error_of_the_call_itself_is_not_the_workers() -> None:
    def fail() -> None:
        raise TimeoutError("of the call")

    with pytest.raises(TimeoutError, match="of the call") as raised:
        await AsyncWorker().run(fail, name="fail", timeout_s=PATIENCE_S)
    assert not isinstance(raised.value, AsyncTimeoutError)


async def test_no_more_calls_run_at_a_time_than_allowed(hanging: Hanging) -> None:
    worker = AsyncWorker(max_concurrency=2)
    calls = [asyncio.create_task(worker.run(hanging, name=f"{i}", timeout_s=PATIENCE_S)) for i in range(6)]
    for _ in range(2):
        await asyncio.to_thread(hanging.entered.acquire, timeout=PATIENCE_S)
    hanging.go_on.set()
    assert await asyncio.gather(*calls) == ["done"] * 6
    assert hanging.most == 2


async def test_a_call_that_was_cancelled_while_it_waited_is_never_made(hanging: Hanging) -> None:
    worker = AsyncWorker(max_concurrency=1)
    first = asyncio.create_task(worker.run(hanging, name="first", timeout_s=PATIENCE_S))
    made: list[str] = []
    second = asyncio.create_task(worker.run(lambda: made.append("second"), name="second", timeout_s=PATIENCE_S))
    await asyncio.to_thread(hanging.entered.acquire, timeout=PATIENCE_S)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hanging.go_on.set()
    assert await first == "done"
    assert await worker.run(lambda: 42, name="third", timeout_s=PATIENCE_S) == 42
    assert made == []


def test_a_call_that_never_ends_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import asyncio, threading\n"
        "from esper.core.errors import AsyncTimeoutError\n"
        "from esper.core.process.worker import AsyncWorker\n"
        "async def main():\n"
        "    try:\n"
        "        await AsyncWorker().run(threading.Event().wait, name='hung', timeout_s=0.05)\n"
        "    except AsyncTimeoutError:\n"
        "        print('late')\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "late\n"


def test_a_worker_without_a_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_concurrency"):
        AsyncWorker(max_concurrency=0)


def test_a_thread_waits_for_its_call_as_long_as_it_says(hanging: Hanging) -> None:
    for timeout_s in deadlines():
        worker, cut = AsyncWorker(max_concurrency=1), threading.Event()
        with pytest.raises(AsyncTimeoutError, match="late took longer"):
            worker.call(hanging, name="late", timeout_s=timeout_s, on_late=cut.set)
        if cut.is_set():  # what it waited for may be cut
            break
    with pytest.raises(AsyncTimeoutError, match="queued"):
        worker.call(lambda: None, name="queued", timeout_s=0.02, on_late=cut.clear)
    assert cut.is_set()  # a call that was never made has nothing to cut
    hanging.go_on.set()
    assert worker.call(lambda: 42, name="next", timeout_s=PATIENCE_S) == 42
    assert worker.counts == Counts(submitted=3, done=1, timed_out=2)


async def test_every_call_is_counted_once_by_its_end(hanging: Hanging) -> None:
    def fail() -> None:
        raise KeyError

    worker = AsyncWorker(max_concurrency=1, max_queued=2)
    assert worker.call(lambda: 1, name="done", timeout_s=PATIENCE_S) == 1
    with pytest.raises(KeyError):
        worker.call(fail, name="failed", timeout_s=PATIENCE_S)
    running = asyncio.create_task(worker.run(hanging, name="running", timeout_s=PATIENCE_S))
    await asyncio.to_thread(hanging.entered.acquire, timeout=PATIENCE_S)
    waiting = worker.submit(hanging, name="waiting")
    worker.submit(hanging, name="waiting too")
    with pytest.raises(BackPressure, match="2 calls wait already"):
        worker.submit(hanging, name="one too many")
    assert worker.counts == Counts(submitted=6, done=1, failed=1, rejected=1)
    assert (worker.counts.pending, worker.queued) == (3, 2)
    assert waiting.cancel()
    assert worker.queued == 1
    worker.submit(hanging, name="in its place")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    hanging.go_on.set()
    worker.close(PATIENCE_S)
    assert worker.counts == Counts(submitted=7, done=1, failed=1, cancelled=4, rejected=1)


async def test_a_cancelled_call_that_runs_is_cut(hanging: Hanging) -> None:
    worker = AsyncWorker()
    call = asyncio.create_task(worker.run(hanging, name="cut", timeout_s=PATIENCE_S, on_late=hanging.go_on.set))
    await asyncio.to_thread(hanging.entered.acquire, timeout=PATIENCE_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert hanging.go_on.is_set()


def test_a_closed_worker_ends_at_once_whatever_hangs(hanging: Hanging) -> None:
    worker = AsyncWorker(max_concurrency=1)
    running, waiting = worker.submit(hanging, name="running"), worker.submit(hanging, name="waiting")
    assert hanging.entered.acquire(timeout=PATIENCE_S)
    worker.close()
    for future in (running, waiting):
        with pytest.raises(CancelledError):
            future.result(0)
    with pytest.raises(ServiceUnavailable, match="it is closed"):
        worker.submit(hanging, name="too late")
    assert worker.counts == Counts(submitted=3, cancelled=2, rejected=1)


def test_closing_lets_what_runs_end_in_its_time(hanging: Hanging) -> None:
    worker = AsyncWorker(max_concurrency=1)
    running = worker.submit(hanging, name="running")
    assert hanging.entered.acquire(timeout=PATIENCE_S)
    threading.Timer(0.01, hanging.go_on.set).start()
    worker.close(PATIENCE_S)
    assert running.result(0) == "done"


def test_a_call_sees_the_context_of_whoever_made_it() -> None:
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace")
    trace.set("mine")
    assert AsyncWorker().call(trace.get, name="read", timeout_s=PATIENCE_S) == "mine"


def test_calls_of_one_place_keep_their_order() -> None:
    worker, made = AsyncWorker(max_concurrency=1), list[int]()
    futures = [worker.submit(lambda number=number: made.append(number), name="one") for number in range(50)]  # type: ignore[misc]
    for future in futures:
        future.result(PATIENCE_S)
    assert made == list(range(50))
