"""Compares an experiment's arms: mean and deviation, differences paired by seed with Student's 95 % interval and p, and
what a choice among several sizes, or a static frontier, would have given and cost.

Differences are the first arm's score minus the other's, or that of the arm that it is held against; accuracies are told
in points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from frontier import cost_at, frontier
from plan import SCORES, Plan
from rows import Row, Rows

from esper.kasmina.control.judge.student import student_quantile, student_tail

CONFIDENCE = 0.975
LEAST_P = 1e-15
COSTS = {"share_of_frontier": "training_macs", "share_of_frontiers_time": "trained_s"}
SHARES = {
    "share_of_frontier": "share of the frontier's cost",
    "share_of_frontiers_time": "of its time, without start-up",
}
Line = dict[str, Any]
Rates = Mapping[str, float | None]
BySeed = Mapping[int, Row]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student), which a single value doesn't have."""
    if len(values) < 2:
        return statistics.fmean(values), None
    error = statistics.stdev(values) / math.sqrt(len(values))
    # The table of quantiles is of upper tails.
    return statistics.fmean(values), error * student_quantile(1 - CONFIDENCE, len(values) - 1)


def p_value(values: Sequence[float]) -> float | None:
    """Two-sided, of a mean of zero; None where it can't be told."""
    if len(values) < 2 or (deviation := statistics.stdev(values)) == 0.0:
        return None
    t = statistics.fmean(values) / (deviation / math.sqrt(len(values)))
    return 2 * student_tail(abs(t), len(values) - 1)


def bounded(differences: Sequence[float], *, are_own: bool) -> Line:
    """Paired differences: their mean, half and `upper` end of its 95 % interval, and p. `are_own`: to oneself."""
    if not differences:
        return {"pairs": 0, "upper": None}
    mean, half = interval(differences)
    upper = 0.0 if are_own else None if half is None else mean + half
    return {
        "pairs": len(differences),
        "difference": mean,
        "difference_95": half,
        "upper": upper,
        "p": p_value(differences),
    }


def compared(plan: Plan, rows: Rows, rates: Rates) -> Iterator[Line]:
    """An arm a line; then what sweeping the sizes, and halving them successively, would have been."""
    by_arm = {arm: rows.of(arm, rates[arm], plan.seeds) for arm in plan.arms}
    first = by_arm[plan.first]
    for arm, own in by_arm.items():
        if own:
            reference = plan.reference(arm)
            yield _line(plan, arm, rates[arm], own, {} if arm == reference else by_arm[reference], by_arm)
    if plan.sweep is not None:
        sizes = {arm: by_arm[arm] for arm in plan.sweep.arms}
        whole = sorted(set.intersection(*(set(own) for own in sizes.values())))
        choices = {"sweep, best by judging data": swept, "successive halving": halved}
        for name, choose in choices.items():
            if whole and (plan.sweep.rungs or choose is swept):
                yield _line(plan, name, None, {seed: choose(plan, sizes, seed) for seed in whole}, first, by_arm)


def swept(plan: Plan, sizes: Mapping[str, BySeed], seed: int) -> Row:
    """The size that judging data prefer; all were paid for."""
    runs = [own[seed] for own in sizes.values()]
    best = max(runs, key=lambda row: judged(plan, row))
    return {**best, "training_macs": sum(row["training_macs"] for row in runs)}


def halved(plan: Plan, sizes: Mapping[str, BySeed], seed: int) -> Row:
    """Half of the sizes are given up at each rung, by judging data.

    What a run did until a rung doesn't hang on what became of it then: so whole runs tell what stopped ones were.
    """
    assert plan.sweep is not None
    alive, cost, before = [own[seed] for own in sizes.values()], 0.0, {id(own[seed]): 0.0 for own in sizes.values()}
    for rung in plan.sweep.rungs:
        found = {id(row): row["rungs"][f"{rung:g}"] for row in alive}
        cost += sum(row["training_macs"] * (found[id(row)]["share"] - before[id(row)]) for row in alive)
        before = {key: reached["share"] for key, reached in found.items()}
        ranked = sorted(alive, key=lambda row: judged(plan, found[id(row)]), reverse=True)
        alive = ranked[: max(1, len(alive) // 2)]
    cost += sum(row["training_macs"] * (1.0 - before[id(row)]) for row in alive)
    return {**max(alive, key=lambda row: judged(plan, row)), "training_macs": round(cost)}


def judged(plan: Plan, row: Row) -> tuple[float, float]:
    """How good a network is by its judging data: more is better; equal accuracies are told apart by the loss."""
    sign = -1.0 if plan.score == "loss" else 1.0
    return sign * row[SCORES[plan.score][1]], -row["val_loss"]


def scores(plan: Plan, own: BySeed) -> dict[int, float]:
    """Scores on the test set by seed: nats, or points of accuracy."""
    scale = 100.0 if plan.score == "accuracy" else 1.0
    return {seed: scale * row[SCORES[plan.score][0]] for seed, row in own.items()}


def _line(plan: Plan, arm: str, rate: float | None, own: BySeed, first: BySeed, by_arm: Mapping[str, BySeed]) -> Line:
    found = scores(plan, own)
    line: Line = {
        "arm": arm,
        "rate": rate,
        "runs": len(own),
        "score": statistics.fmean(found.values()),
        "score_sd": statistics.stdev(found.values()) if len(found) > 1 else None,
        "training_macs": statistics.fmean(row["training_macs"] for row in own.values()),
        "steps": statistics.fmean(row["steps"] for row in own.values()),
        "parameters": statistics.fmean(row["final_parameters"] for row in own.values()),
        "wall_s": statistics.fmean(row["wall_s"] for row in own.values()),
        **{name: sum(row["growth"][name] for row in own.values()) for name in ("kept", "judged")},
    }
    for name, cost in COSTS.items():
        found_shares = [share_of_frontier(plan, row, seed, by_arm, cost) for seed, row in own.items()]
        shares = [share for share in found_shares if share is not None]
        if shares and arm not in plan.frontier:
            line[name], line[f"{name}_95"] = interval(shares)
            line[f"{name}_p"] = p_value([share - 1.0 for share in shares])
            line[f"{name}_runs"] = len(shares)
    paired = [scores(plan, {seed: first[seed]})[seed] - score for seed, score in found.items() if seed in first]
    if paired:
        mean, half = interval(paired)
        sign = 1.0 if plan.score == "accuracy" else -1.0
        line |= {
            "difference": mean,
            "difference_95": half,
            "p": p_value(paired),
            "first_is_better": sum(sign * difference > 0 for difference in paired),
            "pairs": len(paired),
            "equal": sum(difference == 0 for difference in paired),
            "first_costs": statistics.fmean(
                first[seed]["training_macs"] / row["training_macs"] for seed, row in own.items() if seed in first
            ),
        }
    return line


def share_of_frontier(
    plan: Plan, row: Row, seed: int, by_arm: Mapping[str, BySeed], cost: str = "training_macs"
) -> float | None:
    """A run's cost as a share of what the frontier of the same seed costs at its loss; None where nothing can be said.

    Of a loss below all of the frontier this is what the share is at most.
    """
    own, there = row.get(cost), cost_at(frontier(plan, seed, by_arm, cost), row["test_loss"])
    return None if own is None or there is None else own / there


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of these cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def table(plan: Plan, lines: Sequence[Line]) -> str:
    """Markdown."""
    name = "test accuracy, %" if plan.score == "accuracy" else "test loss"
    other = "first arm" if all(arm.against is None for arm in plan.arms.values()) else "arm held against"
    columns = ["arm", "runs", name, f"{other} - this, 95 %", "p", f"{other.removesuffix(' arm')} is better"]
    columns += ["parameters", "steps", "training MACs", f"the {other.removesuffix(' arm')} costs", "kept of judged"]
    shares = {key: words for key, words in SHARES.items() if any(key in line for line in lines)}
    rows = [_cells(plan, line, shares) for line in lines]
    columns += shares.values()
    return markdown(columns, rows)


def _cells(plan: Plan, line: Line, shares: Iterable[str]) -> list[str]:
    digits = 2 if plan.score == "accuracy" else 4
    spread = "" if line["score_sd"] is None else f" ± {line['score_sd']:.{digits}f}"
    difference = p = better = cost = "-"
    if "difference" in line:
        difference = f"{line['difference']:+.{digits}f}{half_of(line['difference_95'], digits)}"
        p = chance(line["p"])
        ties = f", {line['equal']} equal" if line["equal"] else ""
        better = f"{line['first_is_better']} of {line['pairs']}{ties}"
        cost = f"{line['first_costs']:.2f}x"
    rate = "" if line["rate"] is None else f" (rate {line['rate']:g})"
    cells = [f"{line['arm']}{rate}", str(line["runs"]), f"{line['score']:.{digits}f}{spread}", difference, p, better]
    cells += [f"{line['parameters']:,.0f}", f"{line['steps']:,.0f}", f"{line['training_macs']:.3e}", cost]
    cells += [f"{line['kept']} of {line['judged']}"]
    for name in shares:
        p = "" if line.get(f"{name}_p") is None else f" (p {chance(line[f'{name}_p'])})"
        cells += ["-" if name not in line else share_told(line, name) + p]
    return cells


def share_told(line: Line, name: str = "share_of_frontier") -> str:
    """The mean of the seeds' shares with half of its interval, to as many digits wherever it is said."""
    return f"{line[name]:.2f}{half_of(line[f'{name}_95'], 2)}"


def half_of(width: float | None, digits: int) -> str:
    """Half of an interval, which a single run doesn't have."""
    return "" if width is None else f" ± {width:.{digits}f}"


def chance(p: float | None) -> str:
    """A p as it is told: below LEAST_P the tail's arithmetic has no digits left."""
    return "-" if p is None else f"< {LEAST_P:g}" if p < LEAST_P else f"{p:.2g}"
