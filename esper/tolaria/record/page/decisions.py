"""The decision card: what the judge measured last, which seed was refused last and why, and why nothing grows now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esper.tolaria.record.course.reading import Record, of_kind
from esper.tolaria.record.growth_reason import in_words

JUDGE = "G4_SYSTEM_IMPACT"
FIGURES = (
    *("step", "seed_id", "verdict", "look", "gain", "margin", "standard_error", "z", "z_threshold", "samples"),
    *("documents", "detail", "measured", "threshold", "document_error", "wander_error", "gain_at_equal_flops"),
)
VERDICTS = {"PASS": "kept", "FAIL": "refused", "EXTEND": "undecided"}
LIVING = ("GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY")
WAITING = "WAIT"


def looks(events: Sequence[Record]) -> list[dict[str, Any]]:
    """Every look of the judge, with its figures and a sentence."""
    counts: dict[str, int] = {}
    found = []
    for gate in of_kind(events, "gate"):
        if gate["gate"] != JUDGE or gate["verdict"] == WAITING:
            continue
        counts[gate["seed_id"]] = counts.get(gate["seed_id"], 0) + 1
        told = {name: gate[name] for name in FIGURES if name in gate}
        told.setdefault("look", counts[gate["seed_id"]])
        told["is_stack"] = "graft_step" in gate
        found.append({**told, "sentence": sentence(told)})
    return found


def evaluations(events: Sequence[Record]) -> list[dict[str, Any]]:
    """A stack's gain over its twin at each evaluation, with the error of the documents."""
    names = ("seed_id", "step", "gain", "standard_error")
    return [{name: event[name] for name in names} for event in of_kind(events, "evaluation")]


def sentence(look: Record) -> str:
    """One look in one sentence; the judge's own words where it measured no gain."""
    verdict = VERDICTS.get(look["verdict"], str(look["verdict"]).lower())
    if any(look.get(name) is None for name in ("gain", "margin", "z", "z_threshold", "standard_error")):
        return f"{look['seed_id']} {verdict}: {look.get('detail', '')}"
    side = "beyond" if look["z"] >= 0 else "short of"
    return (
        f"{look['seed_id']} {verdict} at look {look['look']}: the gain over its twin is {look['gain']:+.4f} and the "
        f"margin {look['margin']:.4f}; that is {abs(look['z']):.2f} standard errors ({look['standard_error']:.4f}) "
        f"{side} the margin, and {look['z_threshold']:.2f} beyond it are needed"
    )


def last_refused(events: Sequence[Record], judged: Sequence[Record]) -> dict[str, Any] | None:
    """The seed that was culled last, why, and the look that decided it where one did."""
    culls = [move for move in of_kind(events, "transition") if move["to_stage"] == "CULLED"]
    if not culls:
        return None
    cull = culls[-1]
    own = [look for look in judged if look["seed_id"] == cull["seed_id"] and look["step"] <= cull["step"]]
    is_judged = bool(own) and own[-1]["verdict"] == "FAIL"
    reason = cull["reason"].removeprefix("culled: ")
    return {
        "seed_id": cull["seed_id"],
        "step": cull["step"],
        "reason": reason,
        "look": own[-1] if is_judged else None,
    }


def growth_now(events: Sequence[Record], seeds: Sequence[Record], ended: str | None) -> dict[str, Any]:
    """Why the run grows or waits now, since when, and as of which step its numbers are.

    ended: how the run ended, in words; None while it is under way.
    """
    reason: dict[str, Any] | None = None
    for event in events:
        if event["kind"] == "growth":
            reason = {**_reason(event), "as_of_step": event["step"]}
        elif event["kind"] == "epoch" and (now := event.get("growth")):
            reason = {**_reason(now), "as_of_step": event["step"]}
    living = [seed for seed in seeds if seed["stage"] in LIVING]
    if ended is not None:
        headline = f"Nothing grows: the run {ended}."
    elif living:
        headline = f"{', '.join(map(_on_trial, living))}."
    elif reason is None:
        headline = "Nothing grows yet: no decision has been heard."
    else:
        headline = f"Nothing grows now: {reason['words']}."
    return {"is_growing": bool(living) and ended is None, "headline": headline, "reason": reason}


def _reason(told: Record) -> dict[str, Any]:
    return {
        "reason": told["reason"],
        "detail": told["detail"],
        "words": in_words(told["reason"], told["detail"]),
        "since_step": told.get("since_step", told.get("step")),
    }


def _on_trial(seed: Record) -> str:
    paused = ", paused" if seed.get("is_paused") else ""
    return f"{seed['seed_id']} is on trial in {seed['slot_id']} ({seed['stage'].lower()}{paused})"


def reasons(events: Sequence[Record]) -> list[dict[str, Any]]:
    """Every change of the reason, in order."""
    return [{"step": event["step"], **_reason(event)} for event in of_kind(events, "growth")]
