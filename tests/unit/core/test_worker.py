from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from esper.core.errors import AsyncTimeoutError, ConfigError
from esper.core.worker import AsyncWorker

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
    worker = AsyncWorker(max_concurrency=1)
    with pytest.raises(AsyncTimeoutError, match=r"late took longer than 0\.02 s") as refused:
        await worker.run(hanging, name="late", timeout_s=0.02)
    assert isinstance(refused.value, TimeoutError)
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
    hanging.go_on.set()
    assert await first == "done"
    assert await worker.run(lambda: 42, name="third", timeout_s=PATIENCE_S) == 42
    assert made == []


def test_a_call_that_never_ends_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import asyncio, threading\n"
        "from esper.core.errors import AsyncTimeoutError\n"
        "from esper.core.worker import AsyncWorker\n"
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
