"""Going back to the last good state of a run: from memory where it is there, else from the disk.

What is restored is a whole state or an error; the trainer applies it on its own thread, under a new generation.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.core.clock import Clock
from esper.core.errors import DependencyViolationError, RollbackFailed
from esper.tolaria.recovery.checkpoint import CheckpointStore, State, decode

MEMORY_LIMIT_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """A state to go back to, where it came from, and how long reading it took."""

    state: State
    tier: str
    latency_ms: float


class Rollback:
    """Remembers the newest checkpoint in memory; falls through to the files for older ones."""

    def __init__(self, store: CheckpointStore | None, clock: Clock, *, limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        self._store = store
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._remembered: tuple[int, bytes] | None = None

    def remember(self, step: int, content: bytes) -> None:
        """Keep an encoded state; one that is too large is left to the disk."""
        self._remembered = (step, content) if len(content) <= self._limit_bytes else None

    def restore(self, to_step: int | None = None) -> Restored:
        """The newest state, at most at `to_step`. Raises RollbackFailed."""
        started_ns = self._clock.monotonic_ns()
        if self._remembered is not None and (to_step is None or self._remembered[0] <= to_step):
            state, tier = decode(self._remembered[1], "the checkpoint in memory"), "memory"
        elif self._store is not None:
            try:
                state, tier = self._store.newest(to_step).state, "disk"
            except DependencyViolationError as error:
                raise RollbackFailed(f"nothing to go back to: {error}") from error
        else:
            raise RollbackFailed("nothing to go back to: no checkpoint was written yet")
        return Restored(state=state, tier=tier, latency_ms=(self._clock.monotonic_ns() - started_ns) / 1e6)
