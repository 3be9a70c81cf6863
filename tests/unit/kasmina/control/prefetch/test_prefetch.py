"""Prefetches: each ends once, in time, is counted exactly, and leaves nothing behind."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.clock import ManualClock
from esper.core.errors import AsyncTimeoutError, CorruptRecord, DependencyViolationError
from esper.kasmina.control.artifacts.access import FAILURES_TO_OPEN, ArtifactAccess, Breaker
from esper.kasmina.control.prefetch.lines import DirectLine
from esper.kasmina.control.prefetch.prefetcher import CHUNK_BYTES, Ended, Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.leyline import (
    CircuitState,
    KernelArtifact,
    KernelArtifactError,
    KernelArtifactReady,
    KernelPrefetchRequest,
    PrefetchStatus,
    TelemetryPacket,
)
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog
from esper.urza.prefetch import Answer, answer
from tests.unit.kasmina.control.making import CATALOG
from tests.unit.urza.own.making import described

BUILTIN = CATALOG.get("span.linear").artifact
READY = PrefetchStatus.PREFETCH_STATUS_READY
ERROR = PrefetchStatus.PREFETCH_STATUS_ERROR
TIMEOUT = PrefetchStatus.PREFETCH_STATUS_TIMEOUT
CANCELED = PrefetchStatus.PREFETCH_STATUS_CANCELED
RUN = "r1"


class HeldLine:
    """Urza's answers come when the test lets them."""

    def __init__(self, store: ArtifactStore) -> None:
        self.asked: list[KernelPrefetchRequest] = []
        self.is_closed = False
        self._store = store
        self._hear: Callable[[Answer], None] = lambda told: None

    async def ask(self, request: KernelPrefetchRequest, on_answer: Callable[[Answer], None]) -> None:
        self.asked.append(request)
        self._hear = on_answer

    def answer(self, request: KernelPrefetchRequest) -> None:
        self._hear(answer(self._store, request))

    def say(self, told: Answer) -> None:
        self._hear(told)

    async def close(self) -> None:
        self.is_closed = True


@dataclass(kw_only=True)
class Work:
    """A prefetcher over a library of one own blueprint, and everything that it told."""

    store: ArtifactStore
    catalog: Catalog
    timeout_s: float = 20.0
    max_inflight: int = 64
    packets: list[TelemetryPacket] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = ManualClock(now_ns=0)
        self.access = ArtifactAccess(CATALOG, self.store, Breaker(name="artifacts"))
        self.line = HeldLine(self.store)
        self.prefetcher = Prefetcher(
            self.access,
            self.line,
            Reporting(clock, self.packets.append, self.access),
            clock,
            timeout_s=self.timeout_s,
            max_inflight=self.max_inflight,
        )

    @property
    def own(self) -> KernelArtifact:
        return self.catalog.get("lab.gated").artifact

    @property
    def events(self) -> list[str]:
        return [event.name for packet in self.packets for event in packet.events]

    @property
    def counts(self) -> dict[str, int]:
        return {name: count for name, count in self.access.figures.requests.items() if count}

    def asks(self, seed_id: str | None = None, run_id: str = RUN) -> "asyncio.Task[Ended]":
        return asyncio.create_task(self.prefetcher.ready(run_id, self.catalog, "lab.gated", seed_id=seed_id))

    async def asked(self, count: int = 1) -> KernelPrefetchRequest:
        while len(self.line.asked) < count:
            await asyncio.sleep(0)
        return self.line.asked[count - 1]

    async def require_nothing_left(self) -> None:
        """No place, no timer, no task, no lock, no call."""
        for _ in range(3):
            await asyncio.sleep(0)
        requests = self.access.figures.requests
        ends = sum(requests[name] for name in ("ready", "error", "timeout", "canceled"))
        assert requests["scheduled"] == ends
        assert self.prefetcher.inflight == self.access.figures.inflight == self.access.cache.locks == 0
        assert self.access.worker.counts.pending == 0
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("prefetch-")]


def library(path: Path) -> tuple[ArtifactStore, Catalog]:
    store, made = ArtifactStore(path), described(path)
    blueprint, artifact = made.completed(1)
    for content in (artifact, *made.files):
        store.put(content)
    return store, CATALOG.with_own([blueprint])


@pytest.fixture
def work(tmp_path: Path) -> Work:
    store, catalog = library(tmp_path)
    return Work(store=store, catalog=catalog)


async def test_what_is_built_in_is_ready_without_urza(work: Work) -> None:
    assert await work.prefetcher.ready(RUN, work.catalog, "span.linear") == Ended(READY)
    assert work.line.asked == []
    assert work.access.cache.hit_rate == 1.0


async def test_an_own_artefact_is_asked_for_verified_and_then_at_hand(work: Work) -> None:
    first = work.asks()
    work.line.answer(await work.asked())
    assert await first == Ended(READY)
    assert await work.asks() == Ended(READY)
    assert len(work.line.asked) == 1
    assert work.counts == {"scheduled": 1, "ready": 1}
    assert work.access.cache.hit_rate == 0.5
    assert work.events == ["prefetch_requested", "prefetch_ready"]
    await work.require_nothing_left()
    assert b"".join(await work.prefetcher.chunks(work.own.digest)) == work.store.get(work.own.digest)


async def test_a_request_that_is_under_way_is_joined(work: Work) -> None:
    tasks = [work.asks("s1"), work.asks("s2"), work.asks()]
    request = await work.asked()
    await asyncio.sleep(0)
    work.line.answer(request)
    assert await asyncio.gather(*tasks) == [Ended(READY)] * 3
    assert work.counts == {"scheduled": 1, "ready": 1}


async def test_an_unknown_blueprint_is_an_error_that_names_it(work: Work) -> None:
    ended = await work.prefetcher.ready(RUN, work.catalog, "span.cubic")
    assert ended.status == ERROR
    assert "span.cubic" in ended.error
    updates = [update async for update in work.prefetcher.updates(RUN, work.catalog, "span.cubic")]
    assert [update.status for update in updates] == [PrefetchStatus.PREFETCH_STATUS_SCHEDULED, ERROR]


async def test_a_damaged_file_is_an_error_with_urzas_words(work: Work, tmp_path: Path) -> None:
    source = described(tmp_path).source
    store = ArtifactStore(tmp_path)
    (tmp_path / store.put(source)).write_bytes(source + b"#")
    task = work.asks("s1")
    work.line.answer(await work.asked())
    ended = await task
    assert ended.status == ERROR
    assert "SHA-256" in ended.error
    assert work.counts == {"scheduled": 1, "error": 1}
    await work.require_nothing_left()


async def test_an_answer_about_something_else_is_an_error(work: Work) -> None:
    task = work.asks()
    request = await work.asked()
    other = KernelArtifactReady(
        request_id=request.request_id, blueprint_id="lab.gated", artifact=BUILTIN, verify_ms=0.0, content=b"other"
    )
    work.line.say(other)
    assert (await task).status == ERROR
    assert work.access.cache.peek(request.digest) is None


async def test_other_bytes_than_those_of_the_digest_are_an_error(work: Work) -> None:
    task = work.asks()
    request = await work.asked()
    told = answer(work.store, request)
    assert isinstance(told, KernelArtifactReady)
    told.content += b"#"
    work.line.say(told)
    ended = await task
    assert ended.status == ERROR
    assert f"asked for was {request.digest}" in ended.error
    assert work.access.cache.peek(request.digest) is None


async def test_the_answer_carries_the_artefact_and_nothing_is_read_again(work: Work) -> None:
    task = work.asks()
    work.line.answer(await work.asked())
    assert await task == Ended(READY)
    assert work.access.worker.counts.submitted == 0
    assert b"".join(await work.prefetcher.chunks(work.own.digest)) == work.store.get(work.own.digest)
    assert work.access.worker.counts.submitted == 0


async def test_silence_ends_in_time_is_critical_and_opens_the_breaker(tmp_path: Path) -> None:
    store, catalog = library(tmp_path)
    work = Work(store=store, catalog=catalog, timeout_s=0.01)
    for _ in range(FAILURES_TO_OPEN):
        ended = await work.asks("s1")
        assert (ended.status, "0.01 s" in ended.error) == (TIMEOUT, True)
    assert work.counts == {"scheduled": 3, "timeout": 3}
    assert work.access.figures.timeouts == 3
    assert work.access.breaker.state == CircuitState.CIRCUIT_STATE_OPEN
    assert work.events.count("prefetch_timeout") == 3
    await work.require_nothing_left()
    assert "breaker" in (await work.asks("s1")).error


async def test_a_store_that_hangs_is_an_error_in_time_and_its_late_bytes_are_dropped(tmp_path: Path) -> None:
    _, catalog = library(tmp_path)
    hanging = HangingStore(tmp_path)
    work = Work(store=hanging, catalog=catalog, timeout_s=0.02)
    work.prefetcher._line = DirectLine(hanging, work.access.worker, 0.02)
    assert (await work.asks("s1")).status == TIMEOUT
    with pytest.raises(AsyncTimeoutError):
        await work.prefetcher.chunks(work.own.digest)
    assert work.access.figures.timeouts == 2
    hanging.go_on.set()
    await work.require_nothing_left()
    assert len(work.access.cache) == 0


async def test_a_retired_seed_cancels_what_only_it_waits_for(work: Work) -> None:
    one, two = work.asks("s1"), work.asks("s2")
    request = await work.asked()
    await asyncio.sleep(0)
    work.prefetcher.retire(RUN, "s1", "culled")
    assert not two.done()
    work.prefetcher.retire(RUN, "s2", "culled")
    assert [each.status for each in await asyncio.gather(one, two)] == [CANCELED] * 2
    work.line.answer(request)  # too late: it is nobody's
    await work.require_nothing_left()
    assert work.counts == {"scheduled": 1, "canceled": 1}
    assert len(work.access.cache) == 0
    assert work.access.breaker.failures == 0


async def test_what_the_run_itself_wants_outlives_a_seed_and_ends_with_a_reset(work: Work) -> None:
    work.prefetcher.begin(RUN, work.catalog, "lab.gated")
    waiting, other = work.asks("s1"), work.asks(run_id="r2")
    await work.asked(2)
    work.prefetcher.retire(RUN, "s1", "culled")
    assert work.prefetcher.inflight == 2
    work.prefetcher.reset(RUN, "registry reset")
    assert (await waiting).status == CANCELED
    assert work.prefetcher.inflight == 1
    work.line.answer(work.line.asked[1])
    assert await other == Ended(READY)
    await work.require_nothing_left()


async def test_too_many_at_once_are_refused_and_counted_apart(tmp_path: Path) -> None:
    store, catalog = library(tmp_path)
    work = Work(store=store, catalog=catalog, max_inflight=2)
    tasks = [work.asks(run_id=f"r{number}") for number in range(3)]
    await work.asked(2)
    await asyncio.sleep(0)
    assert (await tasks[2]).error.startswith("2 prefetches are under way")
    for request in list(work.line.asked):
        work.line.answer(request)
    await asyncio.gather(*tasks)
    assert work.counts == {"scheduled": 2, "ready": 2, "rejected": 1}


async def test_the_end_of_the_service_cancels_everything(work: Work) -> None:
    task = work.asks("s1")
    await work.asked()
    await work.prefetcher.close()
    assert (await task).status == CANCELED
    assert work.line.is_closed
    await work.require_nothing_left()


async def test_an_attachment_is_timed_from_its_request_and_a_retired_one_is_not(work: Work) -> None:
    await work.prefetcher.ready(RUN, work.catalog, "span.linear", seed_id="s1")
    await work.prefetcher.ready(RUN, work.catalog, "span.linear", seed_id="s2")
    work.prefetcher.retire(RUN, "s2", "culled")
    work.prefetcher.attached(RUN, "s2")
    assert work.access.figures.attach_latency_ms is None
    work.prefetcher.attached(RUN, "s1")
    assert work.access.figures.attach_latency_ms is not None


async def test_readers_of_one_artefact_read_it_once_and_a_long_wait_is_told(work: Work) -> None:
    cache = work.access.cache
    async with cache.held(work.own.digest, "lab.gated"):
        readers = [asyncio.create_task(work.prefetcher.chunks(work.own.digest)) for _ in range(3)]
        await asyncio.sleep(0.12)
    await asyncio.gather(*readers)
    assert work.access.worker.counts.done == 1
    assert "cache_lock_contention" in work.events
    assert cache.lock_wait_ms > 0.0


async def test_the_least_recently_used_artefact_gives_way(work: Work) -> None:
    cache = work.access.cache
    for number in range(40):
        cache.put(str(number), b"x")
        cache.get("0")
    assert (len(cache), cache.evictions) == (32, 8)
    assert cache.peek("0") == b"x"
    assert cache.peek("1") is None


ENDINGS = {"answer": "ready", "error": "error", "retire": "canceled", "reset": "canceled"}


@given(endings=st.lists(st.sampled_from(sorted(ENDINGS)), max_size=12), order=st.randoms(use_true_random=False))
def test_whatever_happens_in_whichever_order_each_is_counted_once(
    endings: list[str], order: "st.random.Random", tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, catalog = LIBRARY(tmp_path_factory)

    async def course() -> Counter[str]:
        work = Work(store=store, catalog=catalog)
        tasks = [work.asks("s", run_id=f"r{number}") for number in range(len(endings))]
        if endings:
            await work.asked(len(endings))
        numbered = list(enumerate(endings))
        order.shuffle(numbered)
        for number, ending in numbered * 2:  # a second end of each finds nothing to end
            run_id, request = f"r{number}", work.line.asked[number]
            if ending == "answer":
                work.line.answer(request)
            elif ending == "error":
                told = KernelArtifactError(request_id=request.request_id, blueprint_id="lab.gated", reason="gone")
                work.line.say(told)
            elif ending == "retire":
                work.prefetcher.retire(run_id, "s", "culled")
            else:
                work.prefetcher.reset(run_id, "reset")
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await work.require_nothing_left()
        return Counter({name: n for name, n in work.counts.items() if name != "scheduled"})

    assert asyncio.run(course()) == Counter(ENDINGS[ending] for ending in endings)


_MADE: list[tuple[ArtifactStore, Catalog]] = []


def LIBRARY(factory: pytest.TempPathFactory) -> tuple[ArtifactStore, Catalog]:
    if not _MADE:
        _MADE.append(library(factory.mktemp("library")))
    return _MADE[0]


class HangingStore(ArtifactStore):
    """A store whose disk doesn't answer until it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on = threading.Event()

    def get(self, digest: str) -> bytes:
        self.go_on.wait(20)
        return super().get(digest)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[HangingStore]:
    store = HangingStore(tmp_path)
    yield store
    store.go_on.set()


async def test_without_a_bus_the_store_of_the_process_answers(work: Work) -> None:
    line = DirectLine(work.store, work.access.worker, 20.0)
    heard: list[Answer] = []
    request = KernelPrefetchRequest(request_id="1", blueprint_id="lab.gated", digest=work.own.digest)
    await line.ask(request, heard.append)
    assert [type(told) for told in heard] == [KernelArtifactReady]


async def test_bytes_come_in_pieces_that_fit_a_message_or_not_at_all(work: Work, tmp_path: Path) -> None:
    chunks = await work.prefetcher.chunks(BUILTIN.digest)
    assert b"".join(chunks) == ArtifactStore().get(BUILTIN.digest)
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
    with pytest.raises(DependencyViolationError, match="artefact"):
        await work.prefetcher.chunks("0" * 64)
    (tmp_path / work.own.digest).write_bytes(b"changed")
    with pytest.raises(CorruptRecord, match="SHA-256"):
        await work.prefetcher.chunks(work.own.digest)
