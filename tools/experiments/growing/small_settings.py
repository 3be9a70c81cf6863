#!/usr/bin/env python3
"""Which settings of growth suit small networks? Compares those that plans name in [settings], over the plans' tasks,
and picks the simplest that is good enough on every one.

    small_settings.py digits_sweep hastie photos        # from the committed rows; trains nothing

A setting that costs more than 0.40 of a task's sweep, twins and looks booked, is out. Of the others the best has the
highest mean accuracy on the task, and one is good enough whose accuracy is behind it, paired by seed, by at most 0.5
points with 95 % (the upper bound of Student's interval). A task's seeds are those that all settings have run. How far
each is behind the sweep's best is told beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from comparing import BySeed, Line, bounded, chance, half_of, markdown, scores, swept
from plan import Plan, Settings
from rows import Rows, with_rows
from run_plan import chosen_rates

WITHIN = 0.5
"""Points that a simpler setting may be behind the best one at most."""
AFFORDABLE = 0.40
"""The largest share of a sweep's cost."""


def settings_of(plan: Plan) -> Settings:
    """Raises SystemExit where a plan has none, or no sweep to hold them against."""
    if plan.settings is None or plan.sweep is None:
        sys.exit(f"the plan {plan.name} has no settings to compare; expected [settings] and [sweep]")
    return plan.settings


def behind(other: BySeed, own: BySeed, plan: Plan) -> Line:
    """Another one's accuracy less a setting's, in points, over the seeds that both have; `upper` ends the interval."""
    theirs, ours = scores(plan, other), scores(plan, own)
    differences = [theirs[seed] - score for seed, score in ours.items() if seed in theirs]
    return bounded(differences, are_own=other is own)


def on_task(plan: Plan, rows: Rows) -> Iterator[Line]:
    """A line for each setting. Raises SystemExit where no seed was run by all of them, or none by the whole sweep."""
    settings, rates = settings_of(plan), chosen_rates(plan, rows)
    seeds = sorted({*plan.seeds, *settings.seeds})
    by_arm = {arm: rows.of(arm, rates[arm], seeds) for arm in plan.arms}
    every = {name: by_arm[arm] for name, arm in settings.arms.items()}
    common = sorted(set.intersection(*(set(own) for own in every.values())))
    sizes = {arm: by_arm[arm] for arm in plan.sweep.arms} if plan.sweep else {}
    whole = sorted(set.intersection(*(set(own) for own in sizes.values())))
    if not common or not whole:
        sys.exit(f"{plan.name}: no seed was run by all settings, or none by all of the sweep; expected rows of both")
    sweep = {seed: swept(plan, sizes, seed) for seed in whole}
    price = fmean(row["training_macs"] for row in sweep.values())
    paired = {name: {seed: own[seed] for seed in common} for name, own in every.items()}
    shares = {name: fmean(row["training_macs"] for row in own.values()) / price for name, own in paired.items()}
    means = {name: fmean(scores(plan, own).values()) for name, own in paired.items()}
    affordable = [name for name in paired if shares[name] <= AFFORDABLE]
    best = max(affordable, key=lambda name: means[name], default=None)
    for name, own in paired.items():
        found = scores(plan, own).values()
        yield {
            "task": plan.name,
            "setting": name,
            "runs": len(own),
            "score": means[name],
            "score_sd": stdev(found) if len(found) > 1 else None,
            "share_of_sweep": shares[name],
            "is_affordable": name in affordable,
            "is_best": name == best,
            "behind_best": {"pairs": 0, "upper": None} if best is None else behind(paired[best], own, plan),
            "behind_sweep": behind(sweep, every[name], plan),
            **{key: sum(row["growth"][key] for row in own.values()) for key in ("kept", "judged")},
        }


def picked(lines: Sequence[Line], within: float) -> str | None:
    """The simplest setting that is affordable and close enough to the best on every task; None where there is none."""
    for name in dict.fromkeys(line["setting"] for line in lines):
        own = [line for line in lines if line["setting"] == name]
        uppers = [line["behind_best"]["upper"] for line in own if line["is_affordable"]]
        if len(uppers) == len(own) and all(upper is not None and upper <= within for upper in uppers):
            return name
    return None


def compared(plans: Sequence[tuple[Plan, Rows]], within: float = WITHIN) -> dict[str, Any]:
    """Everything, ready for JSON. Raises SystemExit where plans name other settings."""
    names = list(settings_of(plans[0][0]).arms)
    for plan, _ in plans:
        if (other := list(settings_of(plan).arms)) != names:
            sys.exit(f"{plan.name} has the settings {other}; expected {names}, as {plans[0][0].name}")
    lines = [line for plan, rows in plans for line in on_task(plan, rows)]
    return {"within": within, "affordable": AFFORDABLE, "picked": picked(lines, within), "lines": lines}


def table(told: dict[str, Any]) -> str:
    """Markdown, and the pick in words."""
    head = ["task", "setting", "runs", "test accuracy, %", "best - this, 95 %", "upper bound", "p"]
    head += ["sweep's best - this, 95 %", "upper bound", "of the sweep's MACs", "kept of judged"]
    pick = told["picked"] or "none"
    words = f"Picked, the simplest within {told['within']:g} points of the best on every task: **{pick}**."
    return f"{markdown(head, [_cells(line) for line in told['lines']])}\n\n{words}"


def _cells(line: Line) -> list[str]:
    score = f"{line['score']:.2f}{half_of(line['score_sd'], 2)}"
    difference, upper, p = _told(line["behind_best"])
    best = ["**best**", "-", "-"] if line["is_best"] else [difference, upper, p]
    share = f"{line['share_of_sweep']:.2f}{'' if line['is_affordable'] else ', too dear'}"
    sweep = _told(line["behind_sweep"])[:2]
    return [line["task"], line["setting"], str(line["runs"]), score, *best, *sweep, share, _kept(line)]


def _told(line: Line) -> tuple[str, str, str]:
    """Difference, upper bound and p."""
    if not line["pairs"]:
        return "-", "-", "-"
    upper = "-" if line["upper"] is None else f"{line['upper']:+.2f}"
    return f"{line['difference']:+.2f}{half_of(line['difference_95'], 2)} ({line['pairs']})", upper, chance(line["p"])


def _kept(line: Line) -> str:
    return f"{line['kept']} of {line['judged']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+", help="files, or names of plans, that name the same settings")
    parser.add_argument("--out", type=Path, help="where run_plan.py left PLAN/rows.jsonl; default: the committed rows")
    parser.add_argument("--within", type=float, default=WITHIN, help="points that a simpler setting may be behind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    told = compared([with_rows(name, options.out) for name in options.plans], options.within)
    print(json.dumps(told, indent=2) if options.json else table(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
