"""What every request of the service works with, and what follows every stored turn: telemetry, then watchers."""

from __future__ import annotations

from dataclasses import dataclass, field

from esper.core.clock import Clock
from esper.core.errors import AccessDenied, LifecycleConflict
from esper.core.security.ledger import LedgerStats, NonceLedger
from esper.core.security.tokens import NO_RUN
from esper.core.storage.store import SqliteStore
from esper.core.telemetry import EventSpec
from esper.kasmina.control.artifacts.access import ArtifactAccess
from esper.kasmina.control.feed import Feed
from esper.kasmina.control.ledger.admission import Admission, RunBound
from esper.kasmina.control.ledger.database import RunRow
from esper.kasmina.control.plane_watch import PlaneWatch
from esper.kasmina.control.prefetch.prefetcher import Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.kasmina.control.stages.turn import Notice, Turn
from esper.leyline import AdvanceResponse


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The service's collaborators."""

    store: SqliteStore
    ledger: NonceLedger
    admission: Admission
    artifacts: ArtifactAccess
    reporting: Reporting
    clock: Clock
    prefetcher: Prefetcher
    plane: PlaneWatch
    feed: Feed = field(default_factory=Feed)

    def turn(self, row: RunRow, step: int) -> Turn:
        """A turn on a run as it is stored."""
        return Turn(
            spec=row.spec,
            state=row.state,
            catalog=self.artifacts.catalog.with_own(row.spec.own_blueprints),
            step=step,
            breakers=(self.artifacts.breaker.name,),
        )

    async def published(self, turn: Turn, stats: LedgerStats, answer: AdvanceResponse | None = None) -> None:
        """Tell telemetry and watchers of a turn that is stored."""
        self.reporting.tell_turn(turn, stats, answer.outcomes if answer else ())
        await self.feed.publish(turn.spec.training_run_id)

    def tell(self, spec: EventSpec, message: str, payload: RunBound, **attributes: str | int) -> None:
        """Tell one event about a run."""
        self.reporting.tell(Notice(spec, message, attributes), payload.training_run_id)


def require_open(row: RunRow | None) -> RunRow:
    """The run, if there is one and it is open."""
    if row is None:
        raise AccessDenied(NO_RUN)
    if not row.is_open:
        raise LifecycleConflict(f"run {row.run_id} is closed; open it under a higher generation")
    return row
