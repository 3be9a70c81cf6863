"""What stays away for a while: tried again until it is there, told of once in ten minutes, counted to the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from esper.core.clock import Clock
from esper.core.errors import AsyncTimeoutError, EsperError
from esper.core.flood import Flood

TOLD_EVERY_S = 600.0


class Outage:
    """Warnings of a log about what fails; `what` says it in few words, the same each time."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log = log
        self._flood: Flood[str] = Flood(clock, self._tell_held, window_s=TOLD_EVERY_S, told_singly=1)

    def warn(self, what: str, error: EsperError) -> None:
        """It failed once more."""
        if self._flood.admits(what):
            self._log.warning("%s: %s", what, error)

    async def outlasted(self, hear: Callable[[], Awaitable[None]], what: str, retry_s: float) -> None:
        """Hear a stream for ever: one that ends, or can't be opened, is opened again."""
        while True:
            try:
                await hear()
            except AsyncTimeoutError:  # a stream lasts no longer; the next one goes on where it was
                continue
            except EsperError as error:
                self.warn(what, error)
            except Exception as error:  # noqa: BLE001 - the edge of a task that nobody waits for
                self._log.error("%s: %s", what, error, exc_info=error)
            await asyncio.sleep(retry_s)

    def _tell_held(self, what: str, count: int) -> None:
        self._log.warning("%s, %d times more", what, count)
