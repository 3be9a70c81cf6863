"""Access to artefacts: verified, behind a breaker, counted.

The breaker opens after failures in a row and lets a trial through after a number of refusals, not after a time, so
that the same calls always get the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from esper.core.clock import Clock
from esper.core.errors import EsperError, ServiceUnavailable
from esper.core.tracing import tracer
from esper.core.worker import AsyncWorker
from esper.leyline import Blueprint, BreakerStatus, CircuitState
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog

CLOSED = CircuitState.CIRCUIT_STATE_CLOSED
OPEN = CircuitState.CIRCUIT_STATE_OPEN
HALF_OPEN = CircuitState.CIRCUIT_STATE_HALF_OPEN
FAILURES_TO_OPEN = 3
REFUSALS_TO_TRY = 10
BREAKER = "artifacts"
_TRACER = tracer("esper.kasmina")


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


@dataclass(slots=True)
class PrefetchFigures:
    """What telemetry says of prefetches."""

    requests: Counter[str] = field(default_factory=Counter)
    timeouts: int = 0
    inflight: int = 0
    last_latency_ms: float | None = None


class ArtifactAccess:
    """The only way of this service to blueprints and their bytes; what may hang is done by its worker."""

    def __init__(self, catalog: Catalog, store: ArtifactStore, clock: Clock, breaker: Breaker) -> None:
        self.catalog = catalog
        self.breaker = breaker
        self.figures = PrefetchFigures()
        self.worker = AsyncWorker()
        self._store = store
        self._clock = clock

    def read(self, digest: str) -> bytes:
        """The artefact. Missing or damaged ones raise and count against the breaker."""
        self.breaker.admit()
        try:
            content = self._store.get(digest)
        except EsperError:
            self.breaker.note(succeeded=False)
            raise
        self.breaker.note(succeeded=True)
        return content

    def problem(self, blueprint_id: str) -> str | None:
        """Why the blueprint can't be built from what is stored, or None."""
        with _TRACER.start_as_current_span("urza.lookup", attributes={"esper.blueprint.id": blueprint_id}):
            try:
                self.read(self.catalog.get(blueprint_id).artifact.digest)
            except EsperError as error:
                return str(error)
        return None

    def prefetch(self, blueprint_id: str) -> Blueprint:
        """Verify the blueprint's artefact ahead of its use. Raises the error tree."""
        began_ns = self._clock.monotonic_ns()
        self.figures.requests["scheduled"] += 1
        self.figures.inflight += 1
        try:
            blueprint = self.catalog.get(blueprint_id)
            self.read(blueprint.artifact.digest)
        except EsperError:
            self.figures.requests["error"] += 1
            raise
        finally:
            self.figures.inflight -= 1
            self.figures.last_latency_ms = (self._clock.monotonic_ns() - began_ns) / 1e6
        self.figures.requests["ready"] += 1
        return blueprint
