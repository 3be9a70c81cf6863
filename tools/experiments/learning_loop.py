"""The loop from end to end, small: explore, learn, publish, swap, decide; beside it the same with shuffled outcomes.

Everything is the product's own: runs, services, bus, signatures, gate, shadow and swap. What the two arms' decisions
were worth on tasks and sizes that nobody learned from is read from their field reports.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from episodes import HELD_OUT, LEARNED_FROM, Episode, episodes
from launching import shared_services
from learning_page import page
from learning_plane import Plane, play, settings

from esper.tamiyo.learned.reward import PRICE

EXPLORED, BEFORE, AFTER = 120, 4, 12
FIRST_SEED, HELD_OUT_SEED = 9000, 60_000
ARMS: dict[str, tuple[str, ...]] = {"learned": (), "shuffled": ("--shuffled", "1")}


def loop(out: Path, processes: int, explored: int = EXPLORED, after: int = AFTER) -> dict[str, Any]:
    """Run it, and write the page; what it found."""
    store = out / "store"
    with shared_services(settings(out, explore=1.0)) as flags:
        plane = Plane(flags)
        play(plane, episodes(LEARNED_FROM, explored, first_seed=FIRST_SEED), out / "explored", processes, "explored")
        print(plane.collect(store).splitlines()[0], flush=True)
    found: dict[str, Any] = {"heuristic": _heuristic(out, processes, after)}
    for arm, words in ARMS.items():
        found[arm] = _arm(arm, words, store, out, processes, after)
    (out / "loop.json").write_text(json.dumps(found, indent=2))
    (out / "loop.html").write_text(page(found))
    return found


def _held_out(after: int) -> tuple[Sequence[Episode], Sequence[Episode]]:
    """Those that the weights see from the shadow, and those that are compared."""
    wanted = episodes(HELD_OUT, BEFORE + after, first_seed=HELD_OUT_SEED)
    return wanted[:BEFORE], wanted[BEFORE:]


def _heuristic(out: Path, processes: int, after: int) -> dict[str, Any]:
    with shared_services() as flags:
        plane = Plane(flags)
        play(plane, _held_out(after)[1], out / "heuristic", processes, "heuristic")
        return {"worth": _worth(plane, out, "heuristic", after)}


def _arm(arm: str, words: Sequence[str], store: Path, out: Path, processes: int, after: int) -> dict[str, Any]:
    own, state = out / f"store_{arm}", out / f"services_{arm}"
    shutil.rmtree(own, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(store, own)
    before, later = _held_out(after)
    with shared_services(settings(out, shadow_decisions=5), state=state) as flags:
        plane = Plane(flags)
        plane.esper("simic", "train", str(own), "--version", "1.1.0", *words, may_fail=True)
        gate = json.loads((own / "validation.json").read_text())
        refused = None if gate["passed"] else plane.refusal(own)
        plane.publish(own, *(() if gate["passed"] else ("--unproven",)))
        play(plane, before, out / f"{arm}_shadow", processes, arm)
        swapped = plane.version()
        play(plane, later, out / arm, processes, arm)
        worth = _worth(plane, out, arm, after)
        standing = json.loads((state / "policies" / "standing.json").read_text())
    said = "passed" if gate["passed"] else "refused"
    print(
        f"{arm}: the gate {said}; Tamiyo decided by {swapped}; {worth['mean']:+.4f} ± {worth['error']:.4f}", flush=True
    )
    return {"gate": gate, "refused": refused, "version": swapped, "worth": worth, "standing": standing}


def _worth(plane: Plane, out: Path, arm: str, after: int) -> dict[str, Any]:
    """Reward of each episode: of what was grown in it, 0 where nothing was."""
    place = out / f"outcomes_{arm}"
    shutil.rmtree(place, ignore_errors=True)
    plane.collect(place)
    rows_path = place / "reports.jsonl"
    plane.esper("reports", "export", str(place), str(rows_path))
    rows = [row for row in map(json.loads, rows_path.read_text().splitlines()) if row["judgement_share"] is not None]
    totals = {f"{arm}-{episode.name}": 0.0 for episode in _held_out(after)[1]}
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
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": fmean(values), "error": error, "episodes": totals, "decisions": decisions}
