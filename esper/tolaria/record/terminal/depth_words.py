"""How deep a network became, for people: the last lines of a run, its report and `esper status` say it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def became(summary: Mapping[str, Any]) -> list[str]:
    """Runs of equal blocks that grew: "stack:layer2 2 -> 4 equal blocks, beside 1 other"."""
    return [f"stack:{path} {_grown(made)}" for path, made in summary.get("depths", {}).items()]


def _grown(made: Mapping[str, int]) -> str:
    others = made.get("others", 0)
    beside = f", beside {others} other{'' if others == 1 else 's'}" if others else ""
    return f"{made['from']} -> {made['to']} equal blocks{beside}"


def missed(summary: Mapping[str, Any]) -> str | None:
    """A wanted depth that wasn't reached: "wanted depth 4, got 2: s1 was culled: look 2: z = 0.31 against 2.71"."""
    found = summary.get("depth_shortfall")
    if found is None:
        return None
    got = found["got"]
    told = ", ".join(f"{depth} in {slot_id}" if len(got) > 1 else str(depth) for slot_id, depth in got.items())
    return f"wanted depth {found['wanted']}, got {told}: {found['reason']}"
