"""The seeds of a run: when each was in the forward pass, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esper.tolaria.record.course.reading import Record, of_kind

# The stages in which a seed is first in the forward pass: a stack is at once and wholly, and blends with nothing.
GRAFTED = ("BLENDING", "SHADOWING")
FATES = ("FOSSILIZED", "CULLED")


def seed_lives(events: Sequence[Record]) -> list[dict[str, Any]]:
    """One record for each grafted seed: first and last step in the forward pass, and its fate; "" while undecided."""
    boundaries = of_kind(events, "boundary")
    last_step = max((event["step"] for event in boundaries), default=0)
    lives: dict[str, dict[str, Any]] = {}
    for event in of_kind(events, "transition"):
        seed_id, stage = event["seed_id"], event["to_stage"]
        if stage in GRAFTED and seed_id not in lives:
            lives[seed_id] = {"seed_id": seed_id, "start": event["step"], "end": last_step, "fate": "", "reason": ""}
        elif stage in FATES and seed_id in lives:
            lives[seed_id].update(end=event["step"], fate=stage, reason=event["reason"])
    return list(lives.values())


def seeds(events: Sequence[Record], blueprints: dict[str, str]) -> list[dict[str, Any]]:
    """Every seed as it was last told, with its blueprint, its fate and why."""
    boundaries = of_kind(events, "boundary")
    fates = {move["seed_id"]: move for move in of_kind(events, "transition") if move["to_stage"] in FATES}
    gains = {gate["seed_id"]: gate for gate in of_kind(events, "gate") if gate.get("gain") is not None}
    return [
        {
            "seed_id": seed["seed_id"],
            "slot_id": seed["slot_id"],
            "blueprint_id": blueprints.get(seed["seed_id"]),
            "stage": seed["stage"],
            "alpha": seed["alpha"],
            "is_paused": bool(seed.get("is_paused")),
            "gain": gains.get(seed["seed_id"], {}).get("gain"),
            "gain_error": gains.get(seed["seed_id"], {}).get("standard_error"),
            "fate": fates[seed["seed_id"]]["to_stage"] if seed["seed_id"] in fates else "",
            "why": fates[seed["seed_id"]]["reason"] if seed["seed_id"] in fates else "",
        }
        for seed in (boundaries[-1]["seeds"] if boundaries else ())
    ]


def blueprints_of(events: Sequence[Record]) -> dict[str, str]:
    """By seed, the blueprint as its germination named it."""
    prefix = "germinated as "
    return {
        move["seed_id"]: move["reason"].removeprefix(prefix)
        for move in of_kind(events, "transition")
        if move["to_stage"] == "GERMINATED" and move["reason"].startswith(prefix)
    }
