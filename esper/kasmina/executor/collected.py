"""What the executor hands the trainer for the services: evidence and reports since the last time."""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline import DirectiveReport, SeedObservation, SlotSignal


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """Observations of living seeds, reports of directives, and the signals of every slot."""

    observations: tuple[SeedObservation, ...] = ()
    reports: tuple[DirectiveReport, ...] = ()
    slots: tuple[SlotSignal, ...] = ()
