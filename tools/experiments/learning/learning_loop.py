"""The loop from end to end, small: explore, learn, publish, swap, decide; beside it the same with shuffled outcomes.

Everything is the product's own: runs, services, bus, signatures, gate, shadow and swap. What the arms' decisions were
worth in runs of sizes, splits and a data set that nobody learned from is read from their field reports, each episode
with the same seed in every arm. What was fixed before it was measured stands in docs/learning.md.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from episodes import NECKS, UNSEEN_NECKS, Episode, episodes
from launching import Places, shared_services
from learning_page import CONTROL, page
from learning_plane import Plane, esper, gather, play, settings
from learning_trace import Spans, receiving

EXPLORED, BEFORE, AFTER = 160, 2, 30
"""So many are explored that the gate lets out what 116 earlier episodes taught nine times in ten (docs/learning.md)."""
FIRST_SEED, LATER_SEED = 12_000, 62_000
PRICE = 0.2
"""Of a whole run's multiply-accumulates: above the default, so that a refused graft of these short runs counts."""
CONTROLS = 3
"""Policies of shuffled outcomes, each of which has its share of the later episodes."""
VERSION, NEVER = "1.1.0", 10**6


def loop(out: Path, places: Places, explored: int = EXPLORED, after: int = AFTER) -> dict[str, Any]:
    """Run it, and write the page; what it found."""
    store = out / "store"
    with receiving() as spans:
        with shared_services(settings(out, explore=1.0)) as flags:
            wanted = episodes(NECKS, explored, first_seed=FIRST_SEED)
            gather(Plane(flags), wanted, out / "explored", store, places, "explored")
        controls = {f"{CONTROL}{number}": number for number in range(1, 1 + min(CONTROLS, after))}
        _learn(out, store, "learned")
        for arm, number in controls.items():
            _learn(out, store, arm, "--shuffled", str(number))
        asked = episodes(UNSEEN_NECKS, BEFORE + after, first_seed=LATER_SEED)
        before, later = asked[:BEFORE], asked[BEFORE:]
        found: dict[str, Any] = {"heuristic": _heuristic(out, places, later)}
        found["learned"] = _arm("learned", out, places, before, later, spans)
        mixed: dict[str, float] = {}
        for arm, number in controls.items():
            found[arm] = _arm(arm, out, places, before, later[number - 1 :: CONTROLS], spans)
            mixed |= found[arm]["worth"]["episodes"]
    learned = found["learned"]
    learned["unseen"] = json.loads(esper("simic", "evaluate", str(_store_of(out, "learned")), "--json"))
    learned[CONTROL] = {"mean": fmean(mixed.values()), "error": _error(list(mixed.values()))}
    learned["beside"] = _beside(learned["worth"]["episodes"], mixed)
    learned["beside_heuristic"] = _beside(learned["worth"]["episodes"], found["heuristic"]["worth"]["episodes"])
    (out / "loop.json").write_text(json.dumps(found, indent=2))
    (out / "loop.html").write_text(page(found))
    return found


def _heuristic(out: Path, places: Places, later: Sequence[Episode]) -> dict[str, Any]:
    shutil.rmtree(out / "heuristic", ignore_errors=True)
    with shared_services() as flags:
        plane = Plane(flags)
        told = [replace(each, flags=(*each.flags, "--span-width", "+8")) for each in later]
        rows = play(plane, told, out / "heuristic", places, "heuristic")
        return {"worth": _worth(plane, out, "heuristic", told, rows)}


def _store_of(out: Path, arm: str) -> Path:
    return out / f"store_{arm}"


def _learn(out: Path, store: Path, arm: str, *words: str) -> None:
    """Fit an arm's weights to a copy of what was explored."""
    own = _store_of(out, arm)
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(store, own)
    said = esper("simic", "train", str(own), "--version", VERSION, "--price", str(PRICE), *words, may_fail=True)
    if not (own / "weights.safetensors").exists():
        sys.exit(f"too little was explored to learn from, so nothing is asked; more --episodes are needed\n{said}")


def _arm(
    arm: str, out: Path, places: Places, before: Sequence[Episode], later: Sequence[Episode], spans: Spans
) -> dict[str, Any]:
    own, state = _store_of(out, arm), out / f"services_{arm}"
    # Reports of these runs are on the bus of these services alone, so none of it is taken over from an earlier loop.
    for place in (state, out / arm, out / f"{arm}_shadow"):
        shutil.rmtree(place, ignore_errors=True)
    gate = json.loads((own / "validation.json").read_text())
    # Weights that do badly would be rolled back, and the heuristic's episodes counted as theirs.
    with shared_services(settings(out, shadow_decisions=5, rollback_after=NEVER), state=state) as flags:
        plane = Plane(flags)
        refused = None if gate["passed"] else plane.refusal(own)
        plane.publish(own, *(() if gate["passed"] else ("--unproven",)))
        play(plane, before, out / f"{arm}_shadow", places, arm)
        plane.await_version(VERSION)
        rows = play(plane, later, out / arm, places, arm)
        worth = _worth(plane, out, arm, later, rows)
        standing = json.loads((state / "policies" / "standing.json").read_text())
    said = "passed" if gate["passed"] else "refused"
    print(f"{arm}: the gate {said}; {worth['mean']:+.4f} ± {worth['error']:.4f}", flush=True)
    found = {"gate": gate, "refused": refused, "worth": worth, "standing": standing}
    return {**found, "trace": spans.of(VERSION, arm)}


def _beside(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Difference of two arms by episode, which each of them had."""
    differences = [worth - other[name] for name, worth in one.items()]
    return {"value": fmean(differences), "error": _error(differences), "episodes": float(len(differences))}


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _worth(
    plane: Plane, out: Path, arm: str, later: Sequence[Episode], played: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Reward of each episode: of what was grown in it, 0 where nothing was; and with what loss they ended."""
    place = out / f"outcomes_{arm}"
    shutil.rmtree(place, ignore_errors=True)
    plane.collect(place)
    rows_path = place / "reports.jsonl"
    esper("reports", "export", str(place), str(rows_path))
    rows = [row for row in map(json.loads, rows_path.read_text().splitlines()) if row["judgement_share"] is not None]
    totals = {episode.name: 0.0 for episode in later}
    decisions = []
    for row in rows:
        episode = row["run_id"].removeprefix(f"{arm}-")
        if episode not in totals:
            continue
        kept = row["outcome"] == "SUCCESS"
        row["cost_share"] = row["judgement_share"] + row["running_share"]
        reward = (row["gain_share"] if kept else 0.0) - PRICE * row["cost_share"]
        totals[episode] += reward
        decisions.append({**row, "reward": reward})
    values = list(totals.values())
    loss = math.exp(fmean(math.log(row["test_loss"]) for row in played))
    told = {"mean": fmean(values), "error": _error(values), "episodes": totals, "decisions": decisions}
    return {**told, "test_loss": loss}
