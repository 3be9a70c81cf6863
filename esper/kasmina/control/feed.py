"""Who watches a run: wakes its watchers whenever its state was stored anew."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator


class Feed:
    """Change notices by run, on one event loop. A slow watcher misses notices, never the last state."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = defaultdict(int)
        self._changed = asyncio.Condition()

    async def publish(self, run_id: str) -> None:
        """Say that the run's state was stored anew."""
        async with self._changed:
            self._versions[run_id] += 1
            self._changed.notify_all()

    async def changes(self, run_id: str) -> AsyncIterator[int]:
        """One item at once, then one after each change or several."""
        seen = self._versions[run_id]
        yield seen
        while True:
            async with self._changed:
                while self._versions[run_id] == seen:
                    await self._changed.wait()
                seen = self._versions[run_id]
            yield seen
