"""What callers can provoke, told without letting them fill the log: one line a kind and window, then a count."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.errors import DependencyViolationError
from esper.core.flood import Flood
from esper.core.telemetry import event
from esper.leyline import Event
from esper.rpc import metrics

log = logging.getLogger("esper.rpc")
WINDOW_S = 10.0
VIOLATIONS = "violated dependencies"


class _Kind(NamedTuple):
    method: str
    what: str


class Mishaps:
    """One for each server; `tell` is given what operators are to hear of."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK, tell: Callable[[Event], None] = lambda told: None) -> None:
        self._clock = clock
        self._tell = tell
        self._flood: Flood[_Kind] = Flood(clock, self._tell_held, window_s=WINDOW_S, told_singly=1)

    def unparsable(self, method: str, peer: str, error: object) -> None:
        """A request whose bytes are no message."""
        if self._flood.admits(_Kind(method, "unparsable requests")):
            log.warning("%s from %s refused: %s", method, peer, error)

    def unexpected(self, method: str, error: Exception) -> None:
        """An error from outside the tree: our bug."""
        if self._flood.admits(_Kind(method, f"unexpected {type(error).__name__}")):
            log.error("%s failed unexpectedly", method, exc_info=error)

    def violation(self, method: str, error: DependencyViolationError) -> None:
        """A call about something that is not there: nothing was put in its place."""
        metrics.DEPENDENCY_VIOLATIONS.labels(method).inc()
        if self._flood.admits(_Kind(method, VIOLATIONS)):
            named = {"subsystem": error.subsystem, "kind": error.kind, "identifier": error.identifier}
            self._tell(event(metrics.DEPENDENCY_VIOLATION, self._clock, str(error), method=method, **named))

    def _tell_held(self, kind: _Kind, count: int) -> None:
        message = f"{count} more {kind.what} within {WINDOW_S:g} s"
        log.warning("%s: %s", kind.method, message)
        if kind.what == VIOLATIONS:
            told = event(metrics.DEPENDENCY_VIOLATION, self._clock, message, method=kind.method, count=count)
            self._tell(told)
