#!/usr/bin/env python3
"""Would a race of several grafts, the worst given up early, pick the one that ends best, and what would it cost?

Four ways to graft were recorded in runs alike (3 -> 6 -> 12 blocks at steps 500 and 1,200 of 3,000, 21 M parameters,
data/README.md), each beside its twin: candidates as a race would have them. Tells each one's gain over the twin after
so many steps, the loss of its whole run, and what training one more candidate until then takes, as a share of the run.
Prints Markdown, or --json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from recorded import Series, load

RUNS = {"stack": "21m st3_6_12", "fresh moments": "21m f", "interleaved": "21m c", "zero output": "21m z3_6_12"}
AFTER = (40, 60, 100, 200, 300)
GRAFTS = ("3 -> 6", "6 -> 12")


def gains(series: Series) -> dict[int, float]:
    """Nats ahead of the twin, by steps since the graft."""
    return {evaluation.step - series.at: evaluation.gain for evaluation in series.evaluations}


def candidates(recorded: Sequence[Series]) -> list[dict[str, Any]]:
    """A line for each way to graft: what was seen at each of its grafts, and the loss that its run ended with."""
    found = []
    for name, run in RUNS.items():
        own = [series for series in recorded if series.run == run]
        seen = [{after: gains(series)[after] for after in AFTER} for series in own]
        found.append({"candidate": name, "end": own[-1].curve[max(own[-1].curve)], "gains": seen})
    return found


def winners(lines: Sequence[dict[str, Any]]) -> list[dict[int, str]]:
    """Who leads after so many steps, graft by graft."""
    grafts = range(len(lines[0]["gains"]))
    return [
        {after: max(lines, key=lambda line: line["gains"][graft][after])["candidate"] for after in AFTER}
        for graft in grafts
    ]


def cost_of_one_more(recorded: Sequence[Series]) -> dict[int, float]:
    """What one more candidate at both grafts takes until then, as a share of the run's own cost, looks not counted."""
    own = [series for series in recorded if series.run == RUNS["stack"]]
    first, second = own
    steps = {"twin": first.at, "between": second.at - first.at, "rest": max(second.curve) - second.at}
    run = first.costs.twin * steps["twin"] + first.costs.grown * steps["between"] + second.costs.grown * steps["rest"]
    return {after: sum(series.costs.grown * after for series in own) / run for after in AFTER}


def table(lines: Sequence[dict[str, Any]], costs: dict[int, float]) -> str:
    """Markdown."""
    spans = [f"after {after}" for after in AFTER]
    rows = [["candidate", "graft", *spans, "loss of the run at its end"], ["---"] * (len(AFTER) + 3)]
    for line in lines:
        for graft, seen in zip(GRAFTS, line["gains"], strict=True):
            rows.append(
                [line["candidate"], graft, *(f"{1e4 * gain:.0f}" for gain in seen.values()), f"{line['end']:.4f}"]
            )
    rows.append(["one more candidate costs", "both", *(f"{share:.1%}" for share in costs.values()), ""])
    leads = [
        f"* Leads after {', '.join(map(str, led))} steps of {graft}: {', '.join(led.values())}."
        for graft, led in zip(GRAFTS, winners(lines), strict=True)
    ]
    best = min(lines, key=lambda line: line["end"])["candidate"]
    return "\n".join([f"| {' | '.join(row)} |" for row in rows] + ["", *leads, f"* {best} ended best."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recorded = load()
    lines, costs = candidates(recorded), cost_of_one_more(recorded)
    told = {"candidates": lines, "cost_of_one_more": costs, "leads": winners(lines)}
    print(json.dumps(told, indent=2) if options.json else table(lines, costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
