"""What callers can provoke, told in the log without letting them fill it: one line a kind and window, then a count."""

from __future__ import annotations

import logging
from typing import NamedTuple

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.flood import Flood

log = logging.getLogger("esper.rpc")
WINDOW_S = 10.0


class _Kind(NamedTuple):
    method: str
    what: str


class Mishaps:
    """One for each server."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._flood: Flood[_Kind] = Flood(clock, _tell_held, window_s=WINDOW_S, told_singly=1)

    def unparsable(self, method: str, peer: str, error: object) -> None:
        """A request whose bytes are no message."""
        if self._flood.admits(_Kind(method, "unparsable requests")):
            log.warning("%s from %s refused: %s", method, peer, error)

    def unexpected(self, method: str, error: Exception) -> None:
        """An error from outside the tree: our bug."""
        if self._flood.admits(_Kind(method, f"unexpected {type(error).__name__}")):
            log.error("%s failed unexpectedly", method, exc_info=error)


def _tell_held(kind: _Kind, count: int) -> None:
    log.warning("%s: %d more %s within %g s", kind.method, count, kind.what, WINDOW_S)
