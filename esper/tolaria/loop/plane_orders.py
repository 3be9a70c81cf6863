"""What the plane's mode makes of a run, at a boundary: told, held back, its seeds ended, or halted.

L2 and a DEGRADED plane go with the packet: Tamiyo germinates nothing. L3 goes to Kasmina as an order, signed like an
operator's, so that it stands in the ledger and a resume replays it; its acknowledgement goes the same way.
"""

from __future__ import annotations

from esper.core.enums import short_name
from esper.leyline import AdaptationCommand, EmergencyLevel, EmergencyOrder, SystemMode
from esper.tolaria.loop.session import Session
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.record.mode import L3, L4, NORMAL, Standing, standing_of
from esper.tolaria.record.packet_result import PacketResult

ISSUER = "operator:weatherlight"
L1 = EmergencyLevel.EMERGENCY_LEVEL_L1_NOTICE
ON, OFF = "emergency-on", "emergency-off"
TOLD_AS = {NORMAL: "INFO", SystemMode.SYSTEM_MODE_DEGRADED: "WARNING", SystemMode.SYSTEM_MODE_EMERGENCY: "CRITICAL"}


class PlaneOrders:
    """The plane's word to one generation of a run."""

    def __init__(self, session: Session, pipeline: Pipeline) -> None:
        self.halt: str | None = None
        self._session = session
        self._pipeline = pipeline
        # A checkpoint may hold growth that an emergency ended, and that emergency may be over.
        self._is_ended = session.progress.history.growth.emergency >= L3

    def heed(self) -> None:
        """Take the plane's mode of now. While it can't be heard, what was heard last holds."""
        session, mode = self._session, self._session.progress.mode
        update = session.plane()
        if update.mode != SystemMode.SYSTEM_MODE_UNSPECIFIED:
            standing = standing_of(update, session.run.run_id)
            if (changed := mode.hear(standing)) is not None:
                session.notice("tolaria.plane_mode", TOLD_AS[standing.mode], changed)
                self._doubt(standing)
            self._order_growth(standing)
        self.halt = f"emergency: {mode.plane.in_words}" if mode.plane.level >= L4 else None

    def note(self, result: PacketResult) -> None:
        """An order that a resume replays stands again."""
        for outcome in result.outcomes:
            if outcome.accepted and outcome.issued_by == ISSUER:
                self._is_ended = outcome.command_id.startswith(ON)

    def _doubt(self, standing: Standing) -> None:
        """A mode from outside may have decided; a halt decides nothing, the run goes on where it was."""
        if standing.mode != NORMAL and standing.level < L4:
            at = f"from step {self._session.progress.step} on"
            self._session.progress.history.doubt(f"the plane was {standing.in_words}, {at}")

    def _order_growth(self, standing: Standing) -> None:
        """Have Kasmina end growth, or allow it again, once for each change."""
        if standing.level >= L4 or (standing.level >= L3) == self._is_ended:
            return
        self._is_ended = not self._is_ended
        why = standing.in_words if self._is_ended else "the emergency was acknowledged"
        order = EmergencyOrder(level=L3 if self._is_ended else L1, rationale=why)
        self._pipeline.order(self._command(ON if self._is_ended else OFF, order))

    def _command(self, name: str, order: EmergencyOrder) -> AdaptationCommand:
        progress = self._session.progress
        return AdaptationCommand(
            command_id=f"{name}-g{progress.generation}-s{progress.step}",
            training_run_id=self._session.run.run_id,
            generation=progress.generation,
            step=progress.step,
            issued_by=ISSUER,
            emergency=order,
        )


def level_name(level: int) -> str:
    """A level in one word, "none" for 0."""
    return short_name(EmergencyLevel, level) if level else "none"
