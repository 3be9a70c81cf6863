"""Where a step's time goes: means over stretches of the run and over all of it, by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from esper.tolaria.record.course.reading import Record, of_kind

STRETCHES = 60
NAMES = {"step_ms": "step", "packet_ms": "packet", "directives_ms": "growth", "wait_ms": "waiting"}


def step_times(events: Sequence[Record]) -> dict[str, Any]:
    """Milliseconds a step by part, of each stretch and over the whole run; the parts add up to all of a step's time."""
    boundaries = [event for event in of_kind(events, "boundary") if event.get("timings")]
    width = max(1, math.ceil(len(boundaries) / STRETCHES))
    stretches = [boundaries[start : start + width] for start in range(0, len(boundaries), width)]
    return {
        "steps": [stretch[-1]["step"] for stretch in stretches],
        "parts": {name: [_mean(stretch, part) for stretch in stretches] for part, name in NAMES.items()},
        "mean_ms": {name: _mean(boundaries, part) for part, name in NAMES.items()} if boundaries else None,
    }


def _mean(boundaries: Sequence[Record], part: str) -> float:
    values = [float(event["timings"].get(part, 0.0)) for event in boundaries]
    return sum(values) / len(values)
