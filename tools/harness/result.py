"""What a scenario found, and what it must have found to have passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.harness.meter import Epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One scenario's outcome; with `failures` empty it passed."""

    scenario: str
    slug: str
    """What its files are named for."""
    metrics: dict[str, float]
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    telemetry: list[dict[str, Any]] = field(default_factory=list)
    """Packets as they arrived on the bus."""
    details: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def unless(holds: bool, failure: str) -> list[str]:
    """The failure, where what was expected doesn't hold."""
    return [] if holds else [failure]


def unlearnt(epochs: Sequence[Epoch]) -> Iterator[str]:
    """That the loss didn't fall from the first epoch to the last."""
    first, last = epochs[0].loss, epochs[-1].loss
    if not last < first:
        yield f"the training loss didn't fall: {first:.4f} in the first epoch, {last:.4f} in the last"
