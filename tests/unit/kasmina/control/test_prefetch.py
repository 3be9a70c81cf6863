"""Artefacts ahead of their use: told as they come, and a store that hangs is an error in time."""

import threading
from collections.abc import Iterator

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import AsyncTimeoutError, DependencyViolationError
from esper.kasmina.control.artifacts import FAILURES_TO_OPEN, ArtifactAccess, Breaker
from esper.kasmina.control.prefetch import CHUNK_BYTES, Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.leyline import CircuitState, PrefetchStatus, PrefetchUpdate
from esper.urza.artifacts import ArtifactStore
from tests.unit.kasmina.control.making import CATALOG

ARTIFACT = CATALOG.get("span.linear").artifact


class HangingStore(ArtifactStore):
    """A store whose disk doesn't answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def get(self, digest: str) -> bytes:
        self.go_on.wait(20)
        return super().get(digest)


@pytest.fixture
def hanging() -> Iterator[HangingStore]:
    store = HangingStore()
    yield store
    store.go_on.set()


def prefetcher(store: ArtifactStore, timeout_s: float = 20.0) -> tuple[Prefetcher, ArtifactAccess]:
    clock = ManualClock(now_ns=0)
    access = ArtifactAccess(CATALOG, store, clock, Breaker(name="artifacts"))
    return Prefetcher(access, Reporting(clock, lambda packet: None, access), clock, timeout_s=timeout_s), access


async def told(of: Prefetcher, blueprint_id: str) -> list[PrefetchUpdate]:
    return [update async for update in of.updates(blueprint_id)]


async def test_an_artefact_is_scheduled_and_then_ready() -> None:
    scheduled, ready = await told(prefetcher(ArtifactStore())[0], "span.linear")
    assert scheduled.status == PrefetchStatus.PREFETCH_STATUS_SCHEDULED
    assert ready.status == PrefetchStatus.PREFETCH_STATUS_READY
    assert ready.artifact == ARTIFACT


async def test_an_unknown_blueprint_is_an_error_that_names_it() -> None:
    *_, last = await told(prefetcher(ArtifactStore())[0], "span.cubic")
    assert last.status == PrefetchStatus.PREFETCH_STATUS_ERROR
    assert "span.cubic" in last.error


async def test_a_store_that_hangs_is_an_error_in_time_and_opens_the_breaker(hanging: HangingStore) -> None:
    source, access = prefetcher(hanging, timeout_s=0.02)
    for _ in range(FAILURES_TO_OPEN):
        *_, last = await told(source, "span.linear")
        assert last.status == PrefetchStatus.PREFETCH_STATUS_ERROR
        assert "took longer" in last.error
    assert access.breaker.state == CircuitState.CIRCUIT_STATE_OPEN


async def test_bytes_come_in_pieces_that_fit_a_message_or_not_at_all(hanging: HangingStore) -> None:
    chunks = await prefetcher(ArtifactStore())[0].chunks(ARTIFACT.digest)
    assert b"".join(chunks) == ArtifactStore().get(ARTIFACT.digest)
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
    with pytest.raises(DependencyViolationError, match="artefact"):
        await prefetcher(ArtifactStore())[0].chunks("0" * 64)
    with pytest.raises(AsyncTimeoutError):
        await prefetcher(hanging, timeout_s=0.02)[0].chunks(ARTIFACT.digest)
