"""When a run was last heard, and for how long its caution counts.

The plane grows nothing while a run is conservative. A trainer that was killed closes no run; its stream ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.core.clock import NS_PER_S, Clock, utc_text

SILENT_S = 600
"""A run whose line stands may be slow, or stopped: nobody waits longer than this for its next packet."""
GONE_S = 60
"""Longer than a trainer takes to ask anew after it missed deadlines, with its breaker open for 30 s."""


@dataclass(slots=True, eq=False)
class Hearing:
    """One run's packets. `line` is the stream that the last one came on; None where it was a call of its own."""

    clock: Clock
    line: object | None = None
    heard_ns: int | None = None
    """Steady time of the last packet; None since the start."""
    ended_ns: int | None = None
    """Steady time at which its line ended; None while it stands."""
    ended_wall_ns: int = 0

    def heard(self, line: object | None) -> None:
        """A packet came."""
        self.line, self.heard_ns, self.ended_ns = line, self.clock.monotonic_ns(), None

    def ended(self, line: object) -> None:
        """A stream ended; nothing happens if the run was heard on another one since."""
        if self.line is line:
            self.ended_ns, self.ended_wall_ns = self.clock.monotonic_ns(), self.clock.now_ns()

    @property
    def counts(self) -> bool:
        """Whether the run is there, or may be back soon."""
        if self.heard_ns is None:
            return False
        since_ns, patience_s = (self.heard_ns, SILENT_S) if self.ended_ns is None else (self.ended_ns, GONE_S)
        return self.clock.monotonic_ns() - since_ns <= patience_s * NS_PER_S

    @property
    def in_words(self) -> str:
        """Until when it counts, where that is known; empty while its line stands."""
        if self.ended_ns is None:
            return ""
        until = utc_text(self.ended_wall_ns + GONE_S * NS_PER_S)
        return f"its trainer has left without closing it; counts until {until}"
