"""Closed field reports on their way to the bus: published in order, again until acknowledged, marked when they are.

Consumers drop what they have seen by its id, so a crash between publishing and marking does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio import sleep
from collections.abc import Awaitable, Callable, Sequence

from esper.core.counted import counted
from esper.core.errors import EsperError
from esper.core.lasted import lasted
from esper.leyline import FieldReport
from esper.tamiyo.field_reports.report_log import ReportLog

BATCH = 64
MAX_PAUSE_S = 5.0
log = logging.getLogger("esper.tamiyo")

Publish = Callable[[Sequence[FieldReport]], Awaitable[None]]


class Publisher:
    """One task that publishes whenever reports were closed. `on_retry` hears how many wait when an outage begins."""

    def __init__(
        self, reports: ReportLog, publish: Publish, *, retry_s: float, on_retry: Callable[[int], None]
    ) -> None:
        self._reports = reports
        self._publish = publish
        self._retry_s = retry_s
        self._on_retry = on_retry
        self._wake = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.published = 0
        self.retries = 0

    def start(self) -> None:
        """Begin with what an earlier process left."""
        self._wake.set()
        self._task = asyncio.create_task(self._work(), name="field reports")

    def wake(self) -> None:
        """Say that reports were closed."""
        self._wake.set()

    async def flush(self) -> None:
        """Publish everything that waits. Raises the error tree."""
        async with self._publishing:
            while batch := self._reports.unpublished()[:BATCH]:
                await self._publish(batch)
                await self._reports.mark_published(report.report_id for report in batch)
                self.published += len(batch)

    async def close(self) -> None:
        """Stop; what wasn't published is published by the next process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        pause_s = 0.0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
                pause_s = 0.0
            except Exception as error:  # noqa: BLE001 - the edge of the task: without it no report would ever leave
                self.retries += 1
                if not pause_s:  # an outage is told once
                    self._tell(error)
                pause_s = min(max(self._retry_s, 2 * pause_s), MAX_PAUSE_S)
                self._wake.set()
                await sleep(pause_s)

    def _tell(self, error: Exception) -> None:
        pending = len(self._reports.unpublished())
        words = "%s kept for the bus, tried again every %s at most: %s"
        unexpected = None if isinstance(error, EsperError) else error
        log.warning(words, counted(pending, "field report"), lasted(MAX_PAUSE_S), error, exc_info=unexpected)
        self._on_retry(pending)
