"""Tells what becomes of steps with CUDA graphs: each recording at the next boundary, and all of it at the end."""

from __future__ import annotations

from esper.tolaria.loop.session import Session


class GraphWatch:
    """Looks at a session's counts; silent where there are no graphs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told_captures = 0

    def look(self) -> None:
        """Tell what was recorded since the last look."""
        counts = self._session.graphs
        if counts is not None and counts.captures > self._told_captures:
            self._told_captures = counts.captures
            self._tell()

    def end(self) -> None:
        """Tell how all steps were made."""
        if self._session.graphs is not None:
            self._tell()

    def _tell(self) -> None:
        counts = self._session.graphs
        if counts is not None:
            facts = {"captures": counts.captures, "capture_ms": counts.capture_ms[-1] if counts.capture_ms else 0.0}
            self._session.notice("tolaria.graph_captured", "INFO", counts.in_words(), facts=facts)
