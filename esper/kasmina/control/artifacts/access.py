"""Access to artefacts: verified, behind a breaker, counted.

The breaker opens after failures in a row and lets a trial through after a number of refusals, not after a time, so
that the same calls always get the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from esper.core.errors import EsperError, ServiceUnavailable
from esper.core.process.worker import AsyncWorker
from esper.kasmina.control.artifacts.kernel_cache import KernelCache
from esper.leyline import BreakerStatus, CircuitState
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog

CLOSED = CircuitState.CIRCUIT_STATE_CLOSED
OPEN = CircuitState.CIRCUIT_STATE_OPEN
HALF_OPEN = CircuitState.CIRCUIT_STATE_HALF_OPEN
FAILURES_TO_OPEN = 3
REFUSALS_TO_TRY = 10
BREAKER = "artifacts"


@dataclass(slots=True)
class Breaker:
    """A circuit breaker that counts calls."""

    name: str
    state: CircuitState = CLOSED
    failures: int = 0
    refusals: int = 0
    on_change: Callable[[Breaker], None] | None = None

    def admit(self) -> None:
        """Let a call pass, or raise ServiceUnavailable."""
        if self.state != OPEN:
            return
        self.refusals += 1
        if self.refusals > REFUSALS_TO_TRY:
            self.force(HALF_OPEN)
            return
        remedy = "its breaker is open after repeated failures; mend the artefact store, then close it by command"
        raise ServiceUnavailable("kasmina", "breaker", self.name, remedy)

    def note(self, *, succeeded: bool) -> None:
        """Count a call's result."""
        self.failures = 0 if succeeded else self.failures + 1
        if succeeded and self.state == HALF_OPEN:
            self.force(CLOSED)
        elif not succeeded and (self.state == HALF_OPEN or self.failures >= FAILURES_TO_OPEN):
            self.force(OPEN)

    def force(self, state: CircuitState) -> None:
        """Set the state, by count or by command."""
        if state == CLOSED:
            self.failures = 0
        self.refusals = 0
        if state != self.state:
            self.state = state
            if self.on_change is not None:
                self.on_change(self)

    def status(self) -> BreakerStatus:
        return BreakerStatus(name=self.name, state=self.state, failures=self.failures)


STATUSES = ("scheduled", "ready", "error", "timeout", "canceled", "rejected")


@dataclass(slots=True)
class PrefetchFigures:
    """What telemetry says of prefetches. Each that was scheduled is in one of its ends or still in flight."""

    requests: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATUSES, 0)))
    timeouts: int = 0
    inflight: int = 0
    last_latency_ms: float | None = None
    verify_ms: float | None = None
    """Of the last one's latency, Urza's verification."""
    attach_latency_ms: float | None = None
    """From the request to the seed's attachment at a boundary, last one."""
    _latency_sum_ms: float = 0.0

    @property
    def latency_ms(self) -> float | None:
        """From request to artefact at hand, mean since the start."""
        ready = self.requests["ready"]
        return self._latency_sum_ms / ready if ready else None

    def note_latency(self, latency_ms: float) -> None:
        """One more that is ready, counted already."""
        self.last_latency_ms = latency_ms
        self._latency_sum_ms += latency_ms


class ArtifactAccess:
    """The only way of this service to blueprints and their bytes; what may hang is done by its worker."""

    def __init__(self, catalog: Catalog, store: ArtifactStore, breaker: Breaker) -> None:
        self.catalog = catalog
        self.store = store
        self.breaker = breaker
        self.cache = KernelCache()
        self.figures = PrefetchFigures()
        self.worker = AsyncWorker()

    def is_builtin(self, digest: str) -> bool:
        """Whether the artefact is part of the program, so that nothing has to be fetched."""
        return self.store.is_builtin(digest)

    def read(self, digest: str) -> bytes:
        """The artefact. Missing or damaged ones raise and count against the breaker."""
        self.breaker.admit()
        try:
            content = self.store.get(digest)
        except EsperError:
            self.breaker.note(succeeded=False)
            raise
        self.breaker.note(succeeded=True)
        return content
