"""Prefetches of all runs: each is asked for once, has a timer, and ends once: ready, error, timeout or canceled.

Nothing of an ended one is left: its timer, its task and its place are gone, and an answer that comes later is nobody's.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

from esper.core.clock import Clock, timestamp
from esper.core.errors import AsyncTimeoutError, BackPressure, EsperError
from esper.core.lasted import lasted_ms
from esper.core.telemetry import AttributeValue, EventSpec
from esper.core.tracing import tracer
from esper.kasmina import metrics
from esper.kasmina.control.artifacts.access import ArtifactAccess
from esper.kasmina.control.prefetch.lines import Line
from esper.kasmina.control.reporting import Reporting
from esper.kasmina.control.stages.turn import Notice
from esper.leyline import (
    KernelArtifact,
    KernelArtifactError,
    KernelArtifactReady,
    KernelPrefetchRequest,
    PrefetchStatus,
    PrefetchUpdate,
)
from esper.urza.catalog import Catalog
from esper.urza.prefetch import Answer

CHUNK_BYTES = 65_536
TIMEOUT_S = 5.0
MAX_INFLIGHT = 64
SCHEDULED = PrefetchStatus.PREFETCH_STATUS_SCHEDULED
READY = PrefetchStatus.PREFETCH_STATUS_READY
ERROR = PrefetchStatus.PREFETCH_STATUS_ERROR
TIMEOUT = PrefetchStatus.PREFETCH_STATUS_TIMEOUT
CANCELED = PrefetchStatus.PREFETCH_STATUS_CANCELED
# How each end is counted and told.
ENDS: dict[PrefetchStatus, tuple[str, EventSpec]] = {
    READY: ("ready", metrics.PREFETCH_READY),
    ERROR: ("error", metrics.PREFETCH_ERROR),
    TIMEOUT: ("timeout", metrics.PREFETCH_TIMEOUT),
    CANCELED: ("canceled", metrics.PREFETCH_CANCELED),
}
log = logging.getLogger("esper.kasmina")
_TRACER = tracer("esper.kasmina")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a prefetch came out; `error` says why where it isn't READY."""

    status: PrefetchStatus
    error: str = ""


@dataclass(kw_only=True, slots=True, eq=False)
class _Prefetch:
    """One that is under way."""

    request: KernelPrefetchRequest
    artifact: KernelArtifact
    issued_ns: int
    seeds: set[str] = field(default_factory=set)
    """Seeds that wait for it; empty where the run itself asked."""
    is_wanted_by_run: bool = False
    ended: asyncio.Future[Ended] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Prefetcher:
    """What PrefetchKernel and FetchArtifact do, and what a germination waits for."""

    def __init__(
        self,
        artifacts: ArtifactAccess,
        line: Line,
        reporting: Reporting,
        clock: Clock,
        *,
        timeout_s: float = TIMEOUT_S,
        max_inflight: int = MAX_INFLIGHT,
    ) -> None:
        self._artifacts = artifacts
        self._line = line
        self._reporting = reporting
        self._clock = clock
        self._timeout_s = timeout_s
        self._max_inflight = max_inflight
        self._under_way: dict[str, _Prefetch] = {}
        self._to_attach: dict[tuple[str, str], int] = {}
        artifacts.cache.on_contention = self._tell_contention

    @property
    def inflight(self) -> int:
        return len(self._under_way)

    async def ready(self, run_id: str, catalog: Catalog, blueprint_id: str, *, seed_id: str | None = None) -> Ended:
        """Have the blueprint's artefact verified and at hand; a seed that waits for it can be retired meanwhile."""
        asked_ns = self._clock.monotonic_ns()
        with _TRACER.start_as_current_span("urza.lookup", attributes={"esper.blueprint.id": blueprint_id}):
            ended = await self._ended(run_id, catalog, blueprint_id, seed_id)
        if ended.status == READY and seed_id is not None:
            self._to_attach[run_id, seed_id] = asked_ns
        return ended

    def begin(self, run_id: str, catalog: Catalog, blueprint_id: str) -> None:
        """Ask for an artefact that a run may need; what becomes of it is told, and nobody waits."""
        try:
            artifact = catalog.get(blueprint_id).artifact
            if not self._is_at_hand(artifact.digest):
                self._asked(run_id, blueprint_id, artifact, None)
        except EsperError as error:
            self._tell(metrics.PREFETCH_ERROR, str(error), run_id, blueprint_id)

    async def updates(self, run_id: str, catalog: Catalog, blueprint_id: str) -> AsyncIterator[PrefetchUpdate]:
        """SCHEDULED, then READY with the artefact, or how else it ended with the reason."""
        yield self._update(blueprint_id, SCHEDULED)
        ended = await self.ready(run_id, catalog, blueprint_id)
        artifact = catalog.get(blueprint_id).artifact if ended.status == READY else None
        yield self._update(blueprint_id, ended.status, artifact=artifact, error=ended.error)

    async def chunks(self, digest: str) -> list[bytes]:
        """The verified artefact in pieces that fit a message."""
        content = await self._content(digest, digest)
        return [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]

    def retire(self, run_id: str, seed_id: str, why: str) -> None:
        """A seed is not wanted any more; what only it waited for is canceled."""
        self._to_attach.pop((run_id, seed_id), None)
        for each in self._of_run(run_id):
            if seed_id in each.seeds:
                each.seeds.discard(seed_id)
                if not each.seeds and not each.is_wanted_by_run:
                    self._end(each, Ended(CANCELED, why))

    def reset(self, run_id: str, why: str) -> None:
        """Nothing of the run is wanted any more."""
        for key in [key for key in self._to_attach if key[0] == run_id]:
            del self._to_attach[key]
        for each in self._of_run(run_id):
            self._end(each, Ended(CANCELED, why))

    def attached(self, run_id: str, seed_id: str) -> None:
        """The executor attached the seed at a boundary: what it waited for has served its end."""
        if (asked_ns := self._to_attach.pop((run_id, seed_id), None)) is not None:
            self._artifacts.figures.attach_latency_ms = (self._clock.monotonic_ns() - asked_ns) / 1e6

    async def close(self) -> None:
        """End what is under way and wait for no store any more."""
        for each in list(self._under_way.values()):
            self._end(each, Ended(CANCELED, "Kasmina ends"))
        await self._line.close()
        self._artifacts.worker.close()

    async def _ended(self, run_id: str, catalog: Catalog, blueprint_id: str, seed_id: str | None) -> Ended:
        try:
            artifact = catalog.get(blueprint_id).artifact
            if self._is_at_hand(artifact.digest):
                return Ended(READY)
            entry = self._asked(run_id, blueprint_id, artifact, seed_id)
        except EsperError as error:
            return Ended(ERROR, str(error))
        return await asyncio.shield(entry.ended)

    def _is_at_hand(self, digest: str) -> bool:
        """Built in, or verified before. Raises where the breaker lets nothing pass."""
        access = self._artifacts
        if access.is_builtin(digest):
            access.read(digest)
            access.cache.count(is_hit=True)
            return True
        if access.cache.get(digest) is None:
            return False
        access.breaker.admit()
        access.breaker.note(succeeded=True)
        return True

    def _asked(self, run_id: str, blueprint_id: str, artifact: KernelArtifact, seed_id: str | None) -> _Prefetch:
        """The prefetch of this artefact for this run: one that is under way, or a new one."""
        entry = next((each for each in self._of_run(run_id) if each.request.digest == artifact.digest), None)
        if entry is None:
            entry = self._scheduled(run_id, blueprint_id, artifact)
        if seed_id is None:
            entry.is_wanted_by_run = True
        else:
            entry.seeds.add(seed_id)
        return entry

    def _scheduled(self, run_id: str, blueprint_id: str, artifact: KernelArtifact) -> _Prefetch:
        figures = self._artifacts.figures
        if len(self._under_way) >= self._max_inflight:
            figures.requests["rejected"] += 1
            raise BackPressure(f"{self._max_inflight} prefetches are under way, as many as may be", self._timeout_s)
        self._artifacts.breaker.admit()
        request = KernelPrefetchRequest(
            request_id=f"prefetch-{secrets.token_hex(16)}",
            blueprint_id=blueprint_id,
            training_run_id=run_id,
            digest=artifact.digest,
            issued_at=timestamp(self._clock.now_ns()),
        )
        entry = _Prefetch(request=request, artifact=artifact, issued_ns=self._clock.monotonic_ns())
        self._under_way[request.request_id] = entry
        figures.requests["scheduled"] += 1
        figures.inflight = len(self._under_way)
        self._tell(metrics.PREFETCH_REQUESTED, "asked for", run_id, blueprint_id)
        late = Ended(TIMEOUT, f"no answer of Urza within {self._timeout_s:g} s")
        entry.timer = asyncio.get_running_loop().call_later(self._timeout_s, self._end, entry, late)
        entry.task = asyncio.create_task(self._carried(entry), name=request.request_id)
        return entry

    async def _carried(self, entry: _Prefetch) -> None:
        """Until the request can't be lost any more; its answer is heard, or missed, without this."""
        try:
            await self._line.ask(entry.request, self._hear)
        except AsyncTimeoutError as error:
            self._end(entry, Ended(TIMEOUT, str(error)))
        except EsperError as error:
            self._end(entry, Ended(ERROR, str(error)))
        except Exception as error:
            log.error("prefetch of %s failed", entry.request.blueprint_id, exc_info=error)
            self._end(entry, Ended(ERROR, f"unexpected {type(error).__name__}: {error}"))

    def _hear(self, told: Answer) -> None:
        entry = self._under_way.get(told.request_id)
        if entry is None:
            return
        ended = _judged(entry, told)
        if ended.status == READY and isinstance(told, KernelArtifactReady):
            self._artifacts.figures.verify_ms = told.verify_ms
            self._artifacts.cache.put(entry.request.digest, told.content)
        self._end(entry, ended)

    def _end(self, entry: _Prefetch, ended: Ended) -> None:
        """The one end; everything that comes after it finds nothing."""
        if self._under_way.pop(entry.request.request_id, None) is None:
            return
        figures, request = self._artifacts.figures, entry.request
        name, spec = ENDS[ended.status]
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.task is not None and entry.task is not asyncio.current_task(entry.task.get_loop()):
            entry.task.cancel()
        entry.ended.set_result(ended)
        figures.requests[name] += 1
        figures.inflight = len(self._under_way)
        if ended.status != CANCELED:
            self._artifacts.breaker.note(succeeded=ended.status == READY)
        figures.timeouts += ended.status == TIMEOUT
        if ended.status == READY:
            figures.note_latency((self._clock.monotonic_ns() - entry.issued_ns) / 1e6)
        message = ended.error or "verified and at hand"
        self._tell(spec, message, request.training_run_id, request.blueprint_id)

    def _of_run(self, run_id: str) -> list[_Prefetch]:
        return [each for each in self._under_way.values() if each.request.training_run_id == run_id]

    async def _content(self, digest: str, name: str) -> bytes:
        access = self._artifacts
        if access.is_builtin(digest):
            return access.read(digest)
        if (content := access.cache.get(digest)) is not None:
            return content
        access.breaker.admit()
        try:
            content = await self._read(digest, name)
        except EsperError as error:
            access.figures.timeouts += isinstance(error, AsyncTimeoutError)
            access.breaker.note(succeeded=False)
            raise
        access.breaker.note(succeeded=True)
        return content

    async def _read(self, digest: str, name: str) -> bytes:
        """From the store into the cache, for one at a time. Raises the error tree."""
        access = self._artifacts
        async with access.cache.held(digest, name):
            if (known := access.cache.peek(digest)) is not None:
                return known
            read = partial(access.store.get, digest)
            content = await access.worker.run(read, name="artefact", timeout_s=self._timeout_s)
            access.cache.put(digest, content)
            return content

    def _tell(self, spec: EventSpec, message: str, run_id: str, blueprint_id: str) -> None:
        self._reporting.tell(Notice(spec, message, {"blueprint_id": blueprint_id}), run_id)

    def _tell_contention(self, name: str, wait_ms: float) -> None:
        attributes: dict[str, AttributeValue] = {"artifact": name, "wait_ms": wait_ms}
        self._reporting.tell(Notice(metrics.CACHE_LOCK_CONTENTION, f"waited {lasted_ms(wait_ms)}", attributes))

    def _update(
        self, blueprint_id: str, status: PrefetchStatus, *, artifact: KernelArtifact | None = None, error: str = ""
    ) -> PrefetchUpdate:
        return PrefetchUpdate(
            blueprint_id=blueprint_id,
            status=status,
            artifact=artifact,
            error=error,
            time=timestamp(self._clock.now_ns()),
        )


def _judged(entry: _Prefetch, told: Answer) -> Ended:
    """Whether the answer is to what was asked, and its bytes are those of the digest."""
    request = entry.request
    if told.blueprint_id != request.blueprint_id:
        return Ended(ERROR, f"Urza answered about {told.blueprint_id}, asked for was {request.blueprint_id}")
    if isinstance(told, KernelArtifactError):
        return Ended(ERROR, told.reason)
    if told.artifact != entry.artifact:
        why = f"Urza verified {told.artifact.digest}, asked for was {request.digest}, or of another size"
        return Ended(ERROR, why)
    if (found := hashlib.sha256(told.content).hexdigest()) != request.digest:
        return Ended(ERROR, f"Urza sent bytes with SHA-256 {found}, asked for was {request.digest}")
    return Ended(READY)
