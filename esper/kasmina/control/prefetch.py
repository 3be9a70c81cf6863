"""Artefacts ahead of their use, and their bytes: verified off the event loop within a deadline, told as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from esper.core.clock import Clock, timestamp
from esper.core.errors import AsyncTimeoutError, EsperError
from esper.kasmina import metrics
from esper.kasmina.control.artifacts import ArtifactAccess
from esper.kasmina.control.reporting import Reporting
from esper.kasmina.control.turn import Notice
from esper.leyline import KernelArtifact, PrefetchStatus, PrefetchUpdate

CHUNK_BYTES = 65_536
READ_TIMEOUT_S = 5.0
T = TypeVar("T")


class Prefetcher:
    """What PrefetchKernel and FetchArtifact do."""

    def __init__(
        self, artifacts: ArtifactAccess, reporting: Reporting, clock: Clock, *, timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._artifacts = artifacts
        self._reporting = reporting
        self._clock = clock
        self._timeout_s = timeout_s

    async def updates(self, blueprint_id: str) -> AsyncIterator[PrefetchUpdate]:
        """SCHEDULED, then READY with the artefact or ERROR with the reason."""
        yield self._update(blueprint_id, PrefetchStatus.PREFETCH_STATUS_SCHEDULED)
        attributes = {"blueprint_id": blueprint_id}
        try:
            blueprint = await self._read(partial(self._artifacts.prefetch, blueprint_id))
        except EsperError as error:
            self._reporting.tell(Notice(metrics.PREFETCH_ERROR, str(error), attributes))
            yield self._update(blueprint_id, PrefetchStatus.PREFETCH_STATUS_ERROR, error=str(error))
            return
        self._reporting.tell(Notice(metrics.PREFETCH_READY, "verified and at hand", attributes))
        yield self._update(blueprint_id, PrefetchStatus.PREFETCH_STATUS_READY, artifact=blueprint.artifact)

    async def chunks(self, digest: str) -> list[bytes]:
        """The verified artefact in pieces that fit a message."""
        content = await self._read(partial(self._artifacts.read, digest))
        return [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]

    async def _read(self, work: Callable[[], T]) -> T:
        """The result of `work`; a store that hangs counts against the breaker like one that fails."""
        try:
            return await self._artifacts.worker.run(work, name="artefact", timeout_s=self._timeout_s)
        except AsyncTimeoutError:
            self._artifacts.figures.timeouts += 1
            self._artifacts.breaker.note(succeeded=False)
            raise

    def close(self) -> None:
        """Wait for no store any more."""
        self._artifacts.worker.close()

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
