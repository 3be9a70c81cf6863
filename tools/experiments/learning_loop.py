"""The loop from end to end, small: explore, learn, publish, swap, decide; beside it the same with shuffled outcomes.

Everything is the product's own: runs, services, bus, signatures, gate, shadow and swap. What the two arms' decisions
were worth on tasks and sizes that nobody learned from is read from their field reports.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from episodes import DEVELOPMENT, LEARNED_FROM, Episode, episodes
from launching import shared_services
from learning_page import page
from learning_plane import Plane, gather, play, settings

from esper.tamiyo.learned.reward import PRICE

EXPLORED, BEFORE, AFTER = 160, 4, 12
FIRST_SEED, LATER_SEED = 9000, 60_000
ARMS: dict[str, tuple[str, ...]] = {"learned": (), "shuffled": ("--shuffled", "1")}


def loop(out: Path, processes: int, explored: int = EXPLORED, after: int = AFTER) -> dict[str, Any]:
    """Run it, and write the page; what it found.

    What was learned is asked on the development tasks, which no weights saw: what every loop looks at isn't held out.
    """
    store = out / "store"
    with shared_services(settings(out, explore=1.0)) as flags:
        wanted = episodes(LEARNED_FROM, explored, first_seed=FIRST_SEED)
        gather(Plane(flags), wanted, out / "explored", store, processes, "explored")
    asked = episodes(DEVELOPMENT, BEFORE + after, first_seed=LATER_SEED)
    found: dict[str, Any] = {"heuristic": _heuristic(out, processes, asked[BEFORE:])}
    for arm, words in ARMS.items():
        found[arm] = _arm(arm, words, store, out, processes, asked)
    found["learned"]["beside"] = _beside(found["learned"]["worth"], found["shuffled"]["worth"])
    (out / "loop.json").write_text(json.dumps(found, indent=2))
    (out / "loop.html").write_text(page(found))
    return found


def _heuristic(out: Path, processes: int, later: Sequence[Episode]) -> dict[str, Any]:
    shutil.rmtree(out / "heuristic", ignore_errors=True)
    with shared_services() as flags:
        plane = Plane(flags)
        play(plane, later, out / "heuristic", processes, "heuristic")
        return {"worth": _worth(plane, out, "heuristic", later)}


def _arm(
    arm: str, words: Sequence[str], store: Path, out: Path, processes: int, asked: Sequence[Episode]
) -> dict[str, Any]:
    own, state = out / f"store_{arm}", out / f"services_{arm}"
    # Reports of these runs are on the bus of these services alone, so none of it is taken over from an earlier loop.
    for place in (own, state, out / arm, out / f"{arm}_shadow"):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(store, own)
    before, later = asked[:BEFORE], asked[BEFORE:]
    with shared_services(settings(out, shadow_decisions=5), state=state) as flags:
        plane = Plane(flags)
        plane.esper("simic", "train", str(own), "--version", "1.1.0", *words, may_fail=True)
        gate = json.loads((own / "validation.json").read_text())
        unseen = json.loads(plane.esper("simic", "evaluate", str(own), "--json"))
        refused = None if gate["passed"] else plane.refusal(own)
        plane.publish(own, *(() if gate["passed"] else ("--unproven",)))
        play(plane, before, out / f"{arm}_shadow", processes, arm)
        swapped = plane.version()
        play(plane, later, out / arm, processes, arm)
        worth = _worth(plane, out, arm, later)
        standing = json.loads((state / "policies" / "standing.json").read_text())
    said = "passed" if gate["passed"] else "refused"
    print(
        f"{arm}: the gate {said}; Tamiyo decided by {swapped}; {worth['mean']:+.4f} ± {worth['error']:.4f}", flush=True
    )
    found = {"gate": gate, "refused": refused, "version": swapped, "worth": worth, "standing": standing}
    return {**found, "unseen": unseen}


def _beside(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """Difference of two arms by episode, which each of them had."""
    pairs = zip(one["episodes"].values(), other["episodes"].values(), strict=True)
    differences = [first - second for first, second in pairs]
    return {"value": fmean(differences), "error": _error(differences), "episodes": float(len(differences))}


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _worth(plane: Plane, out: Path, arm: str, later: Sequence[Episode]) -> dict[str, Any]:
    """Reward of each episode: of what was grown in it, 0 where nothing was."""
    place = out / f"outcomes_{arm}"
    shutil.rmtree(place, ignore_errors=True)
    plane.collect(place)
    rows_path = place / "reports.jsonl"
    plane.esper("reports", "export", str(place), str(rows_path))
    rows = [row for row in map(json.loads, rows_path.read_text().splitlines()) if row["judgement_share"] is not None]
    totals = {f"{arm}-{episode.name}": 0.0 for episode in later}
    decisions = []
    for row in rows:
        if row["run_id"] not in totals:
            continue
        kept = row["outcome"] == "SUCCESS"
        row["cost_share"] = row["judgement_share"] + row["running_share"]
        reward = (row["gain_share"] if kept else 0.0) - PRICE * row["cost_share"]
        totals[row["run_id"]] += reward
        decisions.append({**row, "reward": reward})
    values = list(totals.values())
    return {"mean": fmean(values), "error": _error(values), "episodes": totals, "decisions": decisions}
