"""Verified artefacts at hand, by digest: the least recently used gives way. Each is read once at a time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

CAPACITY = 32
CONTENTION_MS = 100.0


class KernelCache:
    """Bytes by digest, and a lock for each. `on_contention` hears of a lock that was waited for too long."""

    def __init__(self, capacity: int = CAPACITY, on_contention: Callable[[str, float], None] | None = None) -> None:
        self.hits = self.misses = self.evictions = 0
        self.lock_wait_ms = 0.0
        self.on_contention = on_contention
        self._capacity = capacity
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._contents)

    @property
    def locks(self) -> int:
        """Artefacts that someone reads or waits for now."""
        return len(self._locks)

    @property
    def hit_rate(self) -> float:
        """Share of the artefacts asked for that were at hand, 0..1; 1 where none was asked for."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 1.0

    def get(self, digest: str) -> bytes | None:
        """The artefact, if it is at hand; counted."""
        content = self._contents.get(digest)
        self.count(is_hit=content is not None)
        if content is not None:
            self._contents.move_to_end(digest)
        return content

    def count(self, *, is_hit: bool) -> None:
        """One more that was asked for."""
        self.hits += is_hit
        self.misses += not is_hit

    def peek(self, digest: str) -> bytes | None:
        """The same, not counted: its reader has been counted already."""
        return self._contents.get(digest)

    def put(self, digest: str, content: bytes) -> None:
        """Keep a verified artefact."""
        self._contents[digest] = content
        self._contents.move_to_end(digest)
        while len(self._contents) > self._capacity:
            self._contents.popitem(last=False)
            self.evictions += 1

    @asynccontextmanager
    async def held(self, digest: str, name: str) -> AsyncIterator[None]:
        """The artefact for one reader at a time; `name` is how a contention is told."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        began = time.perf_counter()
        async with lock:
            self.lock_wait_ms = (time.perf_counter() - began) * 1e3
            if self.lock_wait_ms > CONTENTION_MS and self.on_contention is not None:
                self.on_contention(name, self.lock_wait_ms)
            yield
