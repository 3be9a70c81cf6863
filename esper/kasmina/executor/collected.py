"""What the executor hands the trainer: evidence and reports for the services, news of memory for the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.leyline import DirectiveReport, SeedObservation, SlotSignal


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNote:
    """What was decided of a twin for its memory, or measured of it."""

    seed_id: str
    step: int
    mode: str
    """live, bursts, refused, undone (memory ran out and the twin took the place), or ended."""
    why: str
    figures: Mapping[str, int | float | str | None] = field(default_factory=dict)
    """Bytes by name, and what set a forecast of them right; None for what couldn't be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """Observations of living seeds, reports of directives, the signals of every slot, and news of memory."""

    observations: tuple[SeedObservation, ...] = ()
    reports: tuple[DirectiveReport, ...] = ()
    slots: tuple[SlotSignal, ...] = ()
    memory: tuple[MemoryNote, ...] = ()
