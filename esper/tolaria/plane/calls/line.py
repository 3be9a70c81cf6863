"""What the trainer knows of the services: whom it waits for, how long calls took, which breaker is open.

The control worker asks; the training thread misses deadlines and reads the figures.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from esper.core.errors import AsyncTimeoutError
from esper.core.process.worker import AsyncWorker
from esper.leyline import CircuitState
from esper.tolaria.metrics import BREAKER_CLOSED, BREAKER_OPENED
from esper.tolaria.plane.calls.breaker import OPEN, Breaker, BreakerConfig
from esper.tolaria.record.packet_result import Calls

SERVICES = ("tamiyo", "kasmina")
Tell = Callable[[str, str], None]


class Line:
    """The line to Tamiyo and Kasmina; `tell` is given events of their breakers, by name and message."""

    def __init__(self, config: BreakerConfig, tell: Tell) -> None:
        self._breakers = {name: Breaker(name, config, on_change=partial(_told, tell)) for name in SERVICES}
        self._last_ms: dict[str, float] = {}
        self._missed: deque[str] = deque()
        self._is_asking = False
        self._asked = SERVICES[0]

    @property
    def is_hopeless(self) -> bool:
        """Whether the call that is waited for is to a service that isn't asked any more."""
        return self._is_asking and self._breakers[self._asked].state == OPEN

    @contextmanager
    def asking(self, service: str) -> Iterator[None]:
        """One call to a service. Raises ServiceUnavailable while its breaker is open."""
        with self._breakers[service].guarding():
            began_s = time.perf_counter()
            self._asked, self._is_asking = service, True
            try:
                yield
            except AsyncTimeoutError:
                self._note(service)
                raise
            finally:
                self._is_asking = False
            self._last_ms[service] = (time.perf_counter() - began_s) * 1e3

    def missed(self) -> str:
        """The training thread waited for too long; the service whose deadline that was."""
        service, is_asking = self._asked, self._is_asking
        self._note(service)
        if is_asking:
            self._breakers[service].missed()
        return service

    def calls(self, worker: AsyncWorker) -> Calls:
        """The figures of now, and what was missed since they were last asked for."""
        missed = tuple(self._missed.popleft() for _ in range(len(self._missed)))
        breakers = {name: int(breaker.state) for name, breaker in self._breakers.items()}
        return Calls(missed=missed, last_ms=dict(self._last_ms), breakers=breakers, worker=worker.counts.by_fate())

    def _note(self, service: str) -> None:
        self._missed.append(service)
        self._last_ms[service] = 0.0


def _told(tell: Tell, state: CircuitState, why: str) -> None:
    tell((BREAKER_OPENED if state == OPEN else BREAKER_CLOSED).name, why)
