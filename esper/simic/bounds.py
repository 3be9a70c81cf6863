"""How much a replay store holds: whole runs give way, those that ended first before others.

The newest runs stay, as many as the gate asks for: of a run of which a part were gone it would judge what is left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from esper.core.clock import nanoseconds
from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.leyline import FieldReport

MIB = 1024 * 1024
MIN_RUNS, MIN_DECISIONS = 10, 40
"""What the gate asks for."""
MIN_REPORTS = 10 * MIN_DECISIONS
"""A store of fewer would often have too little for the gate after a large run gave way."""
ROOM = 0.9
"""Runs give way until so much of a bound is left, so that not every report moves one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """At most so many reports, and bytes of them."""

    max_reports: int = 100_000
    max_bytes: int = 1024 * MIB

    def __post_init__(self) -> None:
        for name, least in (("max_reports", MIN_REPORTS), ("max_bytes", MIB)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(name, value, f"give at least {least:,}: the gate asks for that much")

    def __str__(self) -> str:
        return f"{counted(self.max_reports, 'report')} and {self.max_bytes / MIB:,.0f} MiB at most"

    def holds(self, reports: int, size_bytes: int, *, room: float = 1.0) -> bool:
        """Whether so much is within the bounds."""
        return reports <= room * self.max_reports and size_bytes <= room * self.max_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptRun:
    """What a store holds of a run."""

    run_id: str
    ended_ns: int
    """When its newest report was closed."""
    reports: int
    size_bytes: int


def surplus(runs: list[KeptRun], bounds: Bounds, *, reports: int, size_bytes: int) -> Iterator[KeptRun]:
    """Runs that give way to what comes, of a store that holds so much with it."""
    for run in sorted(runs, key=lambda run: (run.ended_ns, run.run_id))[:-MIN_RUNS]:
        if bounds.holds(reports, size_bytes, room=ROOM):
            return
        reports, size_bytes = reports - run.reports, size_bytes - run.size_bytes
        yield run


def kept_runs(connection: sqlite3.Connection, parsed: Callable[[str, bytes], FieldReport]) -> list[KeptRun]:
    """The runs of a store, whose reports are read by `parsed`."""
    found: dict[str, KeptRun] = {}
    for report_id, run_id, payload in connection.execute("SELECT report_id, run_id, payload FROM reports"):
        closed_ns = nanoseconds(parsed(report_id, payload).closed_at)
        known = found.get(run_id, KeptRun(run_id=run_id, ended_ns=0, reports=0, size_bytes=0))
        found[run_id] = KeptRun(
            run_id=run_id,
            ended_ns=max(known.ended_ns, closed_ns),
            reports=known.reports + 1,
            size_bytes=known.size_bytes + len(payload),
        )
    return list(found.values())
