"""A worker under everything at once: from threads and a loop, with failures, late calls, cancellations and refusals."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future

import pytest

from esper.core.errors import AsyncTimeoutError, BackPressure
from esper.core.process.worker import AsyncWorker

PATIENCE_S = 60.0
PLACES = 4
ENDINGS = ("done", "failed", "cancelled", "timed_out", "rejected")


class Load:
    """Calls of every kind, what their callers saw, and how many ran at once."""

    def __init__(self, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self.most = 0
        self.too_late = 0
        self._random = random.Random(seed)
        self._running = 0
        self._lock = threading.Lock()
        self.worker = AsyncWorker(max_concurrency=PLACES, max_queued=64)

    def work(self, number: int, takes_s: float) -> int:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(takes_s)
        with self._lock:
            self._running -= 1
        if number % 7 == 0:
            raise KeyError(number)
        return number

    def note(self, ending: str) -> None:
        with self._lock:
            self.seen[ending] += 1

    def from_a_thread(self, count: int) -> None:
        pending: list[tuple[int, Future[int]]] = []
        for number in range(count):
            takes_s = self._random.choice((0.0, 0.0, 0.0002, 0.002))
            work = lambda number=number, takes_s=takes_s: self.work(number, takes_s)  # noqa: E731
            try:
                if number % 3:
                    pending.append((number, self.worker.submit(work, name="soak")))
                else:
                    self.judge(number, self.worker.call(work, name="soak", timeout_s=0.001))
            except BackPressure:
                self.note("rejected")
                time.sleep(0.001)
            except AsyncTimeoutError:
                self.note("timed_out")
            except KeyError:
                self.note("failed")
            if number % 5 == 0 and pending:
                pending[-1][1].cancel()
        for number, future in pending:
            try:
                self.judge(number, future.result(PATIENCE_S))
            except CancelledError:
                self.note("cancelled")
            except KeyError:
                self.note("failed")

    async def from_a_loop(self, count: int) -> None:
        async def one(number: int) -> None:
            takes_s, timeout_s = self._random.choice((0.0, 0.002)), self._random.choice((0.001, PATIENCE_S))
            try:
                self.judge(
                    number,
                    await self.worker.run(lambda: self.work(number, takes_s), name="soak", timeout_s=timeout_s),
                )
            except BackPressure:
                self.note("rejected")
            except AsyncTimeoutError:
                self.note("timed_out")
            except KeyError:
                self.note("failed")

        for start in range(0, count, 20):
            calls = [asyncio.create_task(one(number)) for number in range(start, min(count, start + 20))]
            await asyncio.sleep(0)
            if calls[0].cancel():
                await asyncio.wait(calls)
            for call in calls:
                if call.cancelled():  # just when the call had ended, perhaps
                    self.too_late += 1
                else:
                    call.result()

    def judge(self, number: int, result: int) -> None:
        assert result == number
        self.note("done")


@pytest.mark.parametrize("count", [400, pytest.param(15_000, marks=pytest.mark.slow)])
def test_every_call_ends_once_and_as_its_caller_saw(count: int) -> None:
    load, before = Load(seed=count), threading.active_count()
    threads = [threading.Thread(target=load.from_a_thread, args=(count,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(load.from_a_loop(count))
    for thread in threads:
        thread.join()
    load.worker.close(PATIENCE_S)
    counts = load.worker.counts
    assert counts.submitted == 4 * count
    assert counts.pending == 0
    unseen = {name: getattr(counts, name) - load.seen[name] for name in ENDINGS}
    assert sum(unseen.values()) == load.too_late
    assert min(unseen.values()) >= 0
    assert unseen["rejected"] == 0
    assert all(getattr(counts, name) for name in ENDINGS[:-1])
    assert load.most <= PLACES
    until = time.monotonic() + PATIENCE_S
    while threading.active_count() > before:
        assert time.monotonic() < until, "threads are left"
        time.sleep(0.001)
