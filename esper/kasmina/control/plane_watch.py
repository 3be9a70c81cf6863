"""The plane around this service: what it allows, and what it is told of emergencies that were ordered here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from esper.core.enums import short_name
from esper.kasmina.control.orders.dispatch import WEATHERLIGHT
from esper.kasmina.metrics import EMERGENCY_ORDERED
from esper.leyline import AdaptationCommand, EmergencyLevel, EmergencySignal, ModeUpdate, SystemMode
from esper.rpc.reporting.alarm import Alarm

_ALLOWING = (SystemMode.SYSTEM_MODE_UNSPECIFIED, SystemMode.SYSTEM_MODE_NORMAL)


class PlaneWatch:
    """Weatherlight as this service hears it, and what this service says to it."""

    def __init__(self, heard: Callable[[], ModeUpdate], alarm: Alarm) -> None:
        self._heard = heard
        self._alarm = alarm

    def problem(self, run_id: str) -> str | None:
        """Why no seed may be germinated now; a run that is the plane's only trouble is held by its own policy.

        An L4 decides nothing: every run halts before it would act on an answer, and goes on with it as if it hadn't.
        """
        update = self._heard()
        if update.mode in _ALLOWING or update.only_run == run_id or any(map(_halts, update.open_emergencies)):
            return None
        mode = short_name(SystemMode, update.mode)
        return f"the plane is {mode}: {update.cause}; nothing is germinated until it is NORMAL"

    def raise_ordered(self, commands: Iterable[AdaptationCommand], *, is_again: bool = False) -> None:
        """Raise for the whole plane what was ordered for a run. Weatherlight's own word is known there."""
        for command in commands:
            if command.HasField("emergency") and command.issued_by != WEATHERLIGHT:
                self._raise(command, is_again)

    def _raise(self, command: AdaptationCommand, is_again: bool) -> None:
        run = command.training_run_id
        self._alarm.raise_emergency(
            command.emergency.level,
            EMERGENCY_ORDERED.name,
            f"ordered by {command.issued_by}: {command.emergency.rationale}",
            run=run,
            generation=command.generation,
            emergency_id=f"kasmina/{run}/{command.command_id}",
            is_again=is_again,
        )


def _halts(signal: EmergencySignal) -> bool:
    return signal.level >= EmergencyLevel.EMERGENCY_LEVEL_L4_HALT
