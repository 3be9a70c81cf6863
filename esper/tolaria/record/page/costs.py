"""The cost bar: what training cost in multiply-accumulates, and on what.

A culled seed's twin became the network, so the twin's steps of that window are the host's, and those of the grown arm
were for nothing: *failed*. Of a seed that was kept, or isn't judged yet, the host's part of each step is what its twin
took, what the grown arm took beyond that is the *seed*'s, and the twin's steps are its price. What passes beside the
steps cost (incubation, probes, looks) is *judging*; what a rollback threw away has failed too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from esper.tolaria.record.course.reading import Record, of_kind

PARTS = ("host", "seed", "twin", "judging", "failed")
USES = ("main", "twin", "side", "undone")


def costs(events: Sequence[Record], lives: Sequence[Record]) -> dict[str, Any] | None:
    """Multiply-accumulates by part, which add up to the total; None for runs of earlier versions.

    lives: each seed's `start` and `end` in the forward pass and its `fate`, in order.
    """
    told = [event for event in of_kind(events, "boundary") if "macs" in event]
    if not told:
        return None
    steps = [event["step"] for event in told]
    spent = [{use: int(event["macs"].get(use, 0)) for use in USES} for event in told]
    at_start = dict.fromkeys(USES, 0)

    def until(step: int) -> dict[str, int]:
        place = bisect_right(steps, step)
        return spent[place - 1] if place else at_start

    parts = dict.fromkeys(PARTS, 0)
    seeds = []
    for life in lives:
        begun, ended = until(life["start"]), until(life["end"])
        grown, twin = (ended[use] - begun[use] for use in ("main", "twin"))
        own = _window(grown, twin, is_culled=life["fate"] == "CULLED")
        for part, macs in own.items():
            parts[part] += macs
        seeds.append({"seed_id": life["seed_id"], "fate": life["fate"], "macs": grown + twin - own["host"]})
    last = spent[-1]
    windows = sum(parts.values())
    parts["host"] += last["main"] + last["twin"] - windows
    parts["judging"] = last["side"]
    parts["failed"] += last["undone"]
    return {"total": sum(last.values()), "parts": parts, "seeds": seeds}


def _window(grown: int, twin: int, *, is_culled: bool) -> dict[str, int]:
    """Both arms' work in a seed's window, by part; without a twin nothing tells the seed's from the host's."""
    if is_culled:
        return {"host": twin, "failed": grown}
    host = min(grown, twin) if twin else grown
    return {"host": host, "seed": grown - host, "twin": twin}
