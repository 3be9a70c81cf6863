"""Precedence in one event loop: urgent work goes at once, normal work a slice at a time, one slice a turn.

An emergency's way through a process is a dozen short turns of the loop. Between two of them stands at most one slice
of normal work, however many senders bring it, and none while urgent work is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")
SLICE = 32
# Urgent work may wait for a disk, or never end: normal work goes on slowly then.
LONGEST_WAIT_S = 0.1


class Precedence:
    """What the urgent and the normal work of a loop share."""

    def __init__(self) -> None:
        self._urgent = 0
        self._clear = asyncio.Event()
        self._clear.set()
        self._turn = asyncio.Lock()

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Work that normal work gives way to."""
        self._urgent += 1
        self._clear.clear()
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._clear.set()

    async def slices(self, items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
        """The items in slices, each in a turn of the loop in which no other normal work is done."""
        for start in range(0, len(items), SLICE):
            await self._give_way()
            yield items[start : start + SLICE]

    async def _give_way(self) -> None:
        async with self._turn:
            await asyncio.sleep(0)
            if self._urgent:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._clear.wait(), LONGEST_WAIT_S)
