"""Where the time of a boundary goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from esper.core.clock import Clock


class Watch:
    """Runs from its making; parts are measured by name, in milliseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self.parts: dict[str, float] = {"wait": 0.0, "apply": 0.0}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time inside to a part."""
        started_ns = self._clock.monotonic_ns()
        try:
            yield
        finally:
            self.parts[part] += (self._clock.monotonic_ns() - started_ns) / 1e6

    @property
    def total_ms(self) -> float:
        """Time since the start."""
        return (self._clock.monotonic_ns() - self._started_ns) / 1e6
