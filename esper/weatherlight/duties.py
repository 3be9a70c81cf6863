"""Background duties of a service: each begins anew when it fails, and until it works again the service isn't ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from esper.core.errors import EsperError

log = logging.getLogger("esper.weatherlight")
RETRY_S = 1.0

Duty = Callable[[], Coroutine[Any, Any, None]]


class Duties:
    """Runs duties until it is closed. A full bus or a lost database passes; a duty that died of it would not return."""

    def __init__(self, retry_s: float = RETRY_S) -> None:
        self._retry_s = retry_s
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: set[str] = set()

    def take_on(self, name: str, duty: Duty) -> None:
        """Run `duty` again and again; it is expected never to end."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep(name, duty), name=name))

    @property
    def are_well(self) -> bool:
        """Whether every duty is being done."""
        return not self._failed and not any(task.done() for task in self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, duty: Duty) -> None:
        while True:
            try:
                await self._watched(name, duty())
                cause: Exception | None = None
            except Exception as error:  # noqa: BLE001 - the edge of the task
                cause = error
            if name not in self._failed:
                unexpected = None if isinstance(cause, EsperError) else cause
                why = cause or "by itself"
                log.error("duty %s ended, begins anew every %g s: %s", name, self._retry_s, why, exc_info=unexpected)
            self._failed.add(name)
            await asyncio.sleep(self._retry_s)

    async def _watched(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """One life of a duty; it counts as working again once it has lasted as long as the pause before it."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self._retry_s)
            if not task.done():
                self._failed.discard(name)
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # what it uses may be closed next
