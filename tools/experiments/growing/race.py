#!/usr/bin/env python3
"""Which rule says when to grow? Races the rules that plans name in [race], over their corpora and lengths of run, and
picks the simplest one whose paired 95 % bound lies within 0.005 nats of the best.

    race.py stack_rules_d96 stack_rules_d96_headers             # from the committed rows; trains nothing

Rules are compared at equal steps, and at equal cost: there a run's loss is told against what the static frontier of the
same corpus and seed loses for as many MACs, twins and looks booked, because a rule that grows later costs less. The
pair is one seed of one corpus, over which the lengths of run are averaged, since they begin alike; lengths that a rule
has not run with that seed are left out for all rules. The pick is made at equal steps; that at equal cost stands beside
it, and so does what growth to the same depths at random times gives.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from comparing import Line, bounded, interval, share_of_frontier
from frontier import frontier, is_within, loss_at
from plan import Plan, Race
from race_table import MEASURES, table
from rows import Row, Rows, with_rows

WITHIN = 0.005
"""Nats that a rule may be behind the best one at most, to be picked for being simpler."""
Unit = tuple[str, int]
Scores = Mapping[str, Mapping[Unit, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Every rule's run of one corpus, seed and length."""

    plan: str
    seed: int
    budget: str
    runs: Mapping[str, Row]
    shares: Mapping[str, float]
    """Of the frontier's cost at the run's loss, of those that have one."""
    beyond_frontier: Mapping[str, float]
    """The run's loss less the frontier's at the run's cost; empty where there is no frontier."""
    outside: int
    """Runs that cost less or more than any of the frontier, which is drawn on for them."""

    def scores(self, measure: str) -> Mapping[str, float]:
        """Less is better."""
        return (
            self.beyond_frontier if measure == "cost" else {rule: row["test_loss"] for rule, row in self.runs.items()}
        )


def cells(plan: Plan, rows: Rows) -> Iterator[Cell]:
    """The cells that all rules but for the control have run."""
    race = race_of(plan)
    by_arm = {arm: rows.of(arm, None, plan.seeds) for arm in plan.arms}
    for budget in plan.budgets(race.arms[0]):
        arms = {rule: plan.budgets(rule)[budget] for rule in race.all}
        for seed in plan.seeds:
            runs = {rule: by_arm[arm][seed] for rule, arm in arms.items() if seed in by_arm[arm]}
            if not {*race.arms} <= {*runs}:
                continue
            points = frontier(plan, seed, by_arm)
            static = {rule: loss_at(points, row["training_macs"]) for rule, row in runs.items()}
            shares = {rule: share_of_frontier(plan, row, seed, by_arm) for rule, row in runs.items()}
            yield Cell(
                plan=plan.name,
                seed=seed,
                budget=budget,
                runs=runs,
                shares={rule: share for rule, share in shares.items() if share is not None},
                beyond_frontier={
                    rule: runs[rule]["test_loss"] - loss for rule, loss in static.items() if loss is not None
                },
                outside=sum(not is_within(points, row["training_macs"]) for row in runs.values()) if points else 0,
            )


def race_of(plan: Plan) -> Race:
    """Raises SystemExit where a plan has none."""
    if plan.race is None:
        sys.exit(f"the plan {plan.name} has no rules to race; expected [race] with arms, the simplest first")
    return plan.race


def by_unit(found: Sequence[Cell], rule: str, measure: str) -> dict[Unit, float]:
    """A rule's score for each seed of each corpus, the mean over its lengths of run."""
    told: dict[Unit, list[float]] = {}
    for cell in found:
        if (score := cell.scores(measure).get(rule)) is not None:
            told.setdefault((cell.plan, cell.seed), []).append(score)
    return {unit: fmean(values) for unit, values in told.items()}


def against(found: Sequence[Cell], rule: str, other: str, measure: str) -> Line:
    """A rule's mean score less another one's, paired; `upper` is the upper end of its 95 % interval."""
    both = [cell for cell in found if {rule, other} <= {*cell.scores(measure)}]
    own, theirs = by_unit(both, rule, measure), by_unit(both, other, measure)
    return bounded([own[unit] - theirs[unit] for unit in own], are_own=rule == other)


def best(found: Sequence[Cell], rules: Sequence[str], measure: str) -> str | None:
    """The rule of the least mean score; None where nothing can be told by this measure."""
    means = {rule: by_unit(found, rule, measure) for rule in rules}
    if not all(means.values()):
        return None
    return min(rules, key=lambda rule: fmean(means[rule].values()))


def picked(lines: Sequence[Line], measure: str, within: float) -> str | None:
    """The simplest rule whose bound lies within so many nats of the best; one that nobody knows doesn't."""
    uppers = {line["rule"]: line.get(measure, {}).get("upper") for line in lines}
    return next((rule for rule, upper in uppers.items() if upper is not None and upper <= within), None)


def raced(plans: Sequence[tuple[Plan, Rows]], within: float = WITHIN) -> dict[str, Any]:
    """The whole race, ready for JSON. Raises SystemExit where plans race other rules, or nothing was run by all."""
    race = race_of(plans[0][0])
    for plan, _ in plans:
        if race_of(plan) != race:
            sys.exit(
                f"{plan.name} races {race_of(plan)}, {plans[0][0].name} {race}; expected the same rules in one race"
            )
    found = [cell for plan, rows in plans for cell in cells(plan, rows)]
    wanted = sum(len(plan.seeds) * len(plan.budgets(race.arms[0])) for plan, _ in plans)
    if not found:
        sys.exit(f"no seed and length was run by all of {', '.join(race.arms)}; expected rows of {_names(plans)}")
    told: dict[str, Any] = {"plans": [plan.name for plan, _ in plans], "within": within, "wanted": wanted}
    told |= {"cells": len(found), "outside_frontier": sum(cell.outside for cell in found)}
    for measure in MEASURES:
        told[f"best_{measure}"] = best(found, race.arms, measure)
    told["rules"] = [_line(found, rule, told) for rule in race.all]
    for measure in MEASURES:
        lines = [line for line in told["rules"] if line["rule"] in race.arms]
        pick = told[f"picked_{measure}"] = picked(lines, measure, within)
        if race.control is not None and pick is not None:
            told[f"control_{measure}"] = against(found, race.control, pick, measure)
    told["by_length"] = [line for key in dict.fromkeys((c.plan, c.budget) for c in found) for line in _of(found, key)]
    return told


def _line(found: Sequence[Cell], rule: str, told: Mapping[str, Any]) -> Line:
    """One rule over all corpora and lengths."""
    own = [cell.runs[rule] for cell in found if rule in cell.runs]
    line: Line = {"rule": rule, "runs": len(own), **_figures([cell for cell in found if rule in cell.runs], rule)}
    for measure in MEASURES:
        if (winner := told[f"best_{measure}"]) is not None:
            line[measure] = against(found, rule, winner, measure)
    return line


def _of(found: Sequence[Cell], key: tuple[str, str]) -> Iterator[Line]:
    """Every rule at one length of one corpus, beside the rule that was the best there."""
    here = [cell for cell in found if (cell.plan, cell.budget) == key]
    for rule in here[0].runs:
        own = [cell for cell in here if rule in cell.runs]
        line: Line = {"plan": key[0], "budget": key[1], "rule": rule, "runs": len(own), **_figures(own, rule)}
        first = next(iter(here[0].runs))
        yield {**line, "steps": against(here, rule, first, "steps"), "cost": against(here, rule, first, "cost")}


def _figures(own: Sequence[Cell], rule: str) -> Line:
    rows = [cell.runs[rule] for cell in own]
    shares = [cell.shares[rule] for cell in own if rule in cell.shares]
    line: Line = {
        "loss": fmean(row["test_loss"] for row in rows) if rows else None,
        "training_macs": fmean(row["training_macs"] for row in rows) if rows else None,
        **{name: sum(row["growth"][name] for row in rows) for name in ("kept", "judged")},
    }
    if shares:
        line["share_of_frontier"], line["share_of_frontier_95"] = interval(shares)
        line["share_of_frontier_runs"] = len(shares)
    return line


def _names(plans: Sequence[tuple[Plan, Rows]]) -> str:
    return ", ".join(plan.name for plan, _ in plans)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+", help="files, or names of plans, whose rules race")
    parser.add_argument("--out", type=Path, help="where run_plan.py left PLAN/rows.jsonl; default: the committed rows")
    parser.add_argument("--within", type=float, default=WITHIN, help="nats that a simpler rule may be behind the best")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    told = raced([with_rows(name, options.out) for name in options.plans], options.within)
    print(json.dumps(told, indent=2) if options.json else table(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
