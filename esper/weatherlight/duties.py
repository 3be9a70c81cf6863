"""Background duties of a service: each begins anew when it fails, and until it works again the service isn't ready.

The pause before each beginning doubles up to a limit and is jittered, so that what fails together doesn't come back
together; a duty that has then worked for long enough begins with the first pause again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from esper.core.errors import EsperError

log = logging.getLogger("esper.weatherlight")
Duty = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPace:
    """When a duty that failed begins anew."""

    retry_s: float = 1.0
    """The first pause."""
    max_retry_s: float = 5.0
    """The longest one: a bus that is back is found soon, since the plane lets nothing grow until it is."""
    jitter: float = 0.25
    """The largest share of a pause that is added to it at random."""
    healthy_s: float = 60.0
    """A duty that has worked for so long is forgiven its failures."""


@dataclass(slots=True)
class Standing:
    """How a duty is doing."""

    restarts: int = 0
    backoff_s: float = 0.0
    """The pause that it is in; 0 while it works."""
    is_well: bool = True
    cause: str = ""
    """What it first failed of since it last was well."""


Failed = Callable[[str, str, float], None]


def _unheard(name: str, cause: str, pause_s: float) -> None:
    """Nobody wants to be told beside the log."""


class Duties:
    """Runs duties until it is closed. A full bus or a lost database passes; a duty that died of it would not return.

    `on_failure` is given the duty's name, the cause and the pause in seconds, each time.
    """

    def __init__(
        self,
        pace: RestartPace | None = None,
        on_failure: Failed = _unheard,
        chance: Callable[[], float] = random.random,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pace = pace or RestartPace()
        self._on_failure = on_failure
        self._chance = chance
        self._now_s = now_s
        self._tasks: list[asyncio.Task[None]] = []
        self.standings: dict[str, Standing] = {}

    def take_on(self, name: str, duty: Duty) -> None:
        """Run `duty` again and again; it is expected never to end."""
        self.standings[name] = Standing()
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep(name, duty), name=name))

    def when_failing(self, on_failure: Failed) -> None:
        """Tell of failures from now on."""
        self._on_failure = on_failure

    @property
    def are_well(self) -> bool:
        """Whether every duty is being done."""
        return all(standing.is_well for standing in self.standings.values()) and not any(t.done() for t in self._tasks)

    def trouble(self) -> str | None:
        """The first duty that isn't being done, and why; None where all are."""
        unwell = ((name, standing) for name, standing in self.standings.items() if not standing.is_well)
        return next((f"duty {name} can't be done: {standing.cause}" for name, standing in unwell), None)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, duty: Duty) -> None:
        standing, pause_s = self.standings[name], 0.0
        while True:
            began_s = self._now_s()
            try:
                await self._watched(name, standing, duty(), pause_s)
                cause: Exception | None = None
            except Exception as error:  # noqa: BLE001 - the edge of the task
                cause = _alone(error)
            if self._now_s() - began_s >= self._pace.healthy_s:
                pause_s = 0.0
            pause_s = min(max(self._pace.retry_s, 2 * pause_s), self._pace.max_retry_s)
            standing.restarts += 1
            standing.backoff_s = pause_s * (1 + self._pace.jitter * self._chance())
            self._tell(name, standing, cause)
            await asyncio.sleep(standing.backoff_s)
            standing.backoff_s = 0.0

    def _tell(self, name: str, standing: Standing, cause: Exception | None) -> None:
        why = str(cause) if cause is not None else "by itself"
        if standing.is_well:
            standing.cause = why
            unexpected = None if isinstance(cause, EsperError) else cause
            log.error("duty %s ended, begins anew in %.3g s: %s", name, standing.backoff_s, why, exc_info=unexpected)
        standing.is_well = False
        self._on_failure(name, why, standing.backoff_s)

    async def _watched(self, name: str, standing: Standing, work: Coroutine[Any, Any, None], pause_s: float) -> None:
        """One life of a duty; it counts as working again once it has lasted as long as the pause before it."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=max(pause_s, self._pace.retry_s))
            if not task.done():
                if not standing.is_well:
                    log.info("duty %s works again", name)
                standing.is_well = True
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # what it uses may be closed next


def _alone(error: Exception) -> Exception:
    """What a group holds, if that is one thing: a duty with tasks fails in the words of the one that failed."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error
