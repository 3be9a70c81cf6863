"""A breaker for a service that hangs: after deadlines missed in a row it isn't asked for a while, then once as a trial.

It opens on missed deadlines alone: a service that is gone refuses at once and costs nothing to ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from esper.core.counted import counted
from esper.core.errors import AsyncTimeoutError, ServiceUnavailable
from esper.core.lasted import lasted
from esper.leyline import CircuitState

CLOSED = CircuitState.CIRCUIT_STATE_CLOSED
OPEN = CircuitState.CIRCUIT_STATE_OPEN
HALF_OPEN = CircuitState.CIRCUIT_STATE_HALF_OPEN


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerConfig:
    """When a breaker opens, and for how long."""

    misses_to_open: int = 3
    """Deadlines missed in a row."""
    open_s: float = 30.0
    """Time until the service is asked again, as a trial, seconds."""


class Breaker:
    """The breaker of one service; any thread may use it. `on_change` is told the new state and why."""

    def __init__(
        self,
        service: str,
        config: BreakerConfig | None = None,
        clock: Clock = SYSTEM_CLOCK,
        on_change: Callable[[CircuitState, str], None] = lambda state, why: None,
    ) -> None:
        self.service = service
        self._config = config or BreakerConfig()
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._state = CLOSED
        self._misses = 0
        self._opened_ns = 0

    @property
    def state(self) -> CircuitState:
        return self._state

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """One call inside. Raises ServiceUnavailable while the service isn't to be asked."""
        self._admit()
        try:
            yield
        except AsyncTimeoutError:
            self.missed()
            raise
        except BaseException:
            self._untried()
            raise
        self._answered()

    def missed(self) -> bool:
        """A deadline was missed; True if that opened the breaker."""
        with self._lock:
            self._misses += 1
            opens = self._state == HALF_OPEN or (self._state == CLOSED and self._misses >= self._config.misses_to_open)
            if opens:
                self._opened_ns = self._clock.monotonic_ns()
                self._state = OPEN
        if opens:
            missed = f"{self.service} missed {counted(self._misses, 'deadline')} in a row"
            why = f"{missed}; asked again in {self._config.open_s:g} s"
            self._on_change(OPEN, why)
        return opens

    def _admit(self) -> None:
        with self._lock:
            if self._state == CLOSED:
                return
            left_s = self._config.open_s - (self._clock.monotonic_ns() - self._opened_ns) / NS_PER_S
            if left_s <= 0:
                self._state = HALF_OPEN
                return
        remedy = f"it missed {counted(self._misses, 'deadline')} in a row and is asked again in {lasted(left_s)}"
        raise ServiceUnavailable("tolaria", "service", self.service, remedy)

    def _answered(self) -> None:
        with self._lock:
            closes = self._state != CLOSED
            self._state, self._misses = CLOSED, 0
        if closes:
            self._on_change(CLOSED, f"{self.service} answers again")

    def _untried(self) -> None:
        """The trial came to nothing for another reason: the next call is one."""
        with self._lock:
            if self._state == HALF_OPEN:
                self._state = OPEN
