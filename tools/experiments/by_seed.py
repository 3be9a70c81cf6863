"""Every run by itself: what it scored, what it cost and for what, and what became of its grafts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from comparing import COSTS, SHARES, BySeed, Rates, markdown, scores, share_of_frontier
from plan import Plan
from rows import Row, Rows

USES = ("main", "twin", "side")


def by_seed(plan: Plan, rows: Rows, rates: Rates) -> str:
    """Markdown, a line for each run, seed after seed."""
    by_arm = {arm: rows.of(arm, rates[arm], plan.seeds) for arm in plan.arms}
    score, digits = ("test accuracy, %", 2) if plan.score == "accuracy" else ("test loss", 4)
    head = ["seed", "arm", score, "parameters", "steps", "training MACs", "main, twins, looks", "gain of each graft"]
    head += [*SHARES.values(), "of its cost, without twins and looks"] if plan.frontier else []
    lines = []
    for seed, arm in ((seed, arm) for seed in plan.seeds for arm, own in by_arm.items() if seed in own):
        row = by_arm[arm][seed]
        line = [str(seed), arm, f"{scores(plan, {seed: row})[seed]:.{digits}f}", f"{row['final_parameters']:,}"]
        line += [f"{row['steps']:,}", f"{row['training_macs']:.3e}", _uses(row), ", ".join(_gains(row)) or "-"]
        lines.append([*line, *_shares(plan, arm, seed, by_arm)] if plan.frontier else line)
    return markdown(head, lines)


def _shares(plan: Plan, arm: str, seed: int, by_arm: Mapping[str, BySeed]) -> list[str]:
    """Of the frontier's cost, of its time, and of its cost by what trained the network that stayed alone."""
    row = by_arm[arm][seed]
    of_frontier = {name: share_of_frontier(plan, row, seed, by_arm, cost) for name, cost in COSTS.items()}
    booked, uses = of_frontier["share_of_frontier"], row.get("training_macs_by_use")
    main = None if booked is None or not uses else booked * uses["main"] / row["training_macs"]
    # The frontier's own runs are what the others are held against.
    told = [None if arm in plan.frontier else share for share in (*of_frontier.values(), main)]
    return ["-" if share is None else f"{share:.2f}" for share in told]


def _uses(row: Row) -> str:
    """Rows that another script made don't tell."""
    told = row.get("training_macs_by_use")
    return ", ".join(f"{told[use]:.2e}" for use in USES) if told else "-"


def _gains(row: Row) -> Iterator[str]:
    """Of the grafts that were judged."""
    for seed in row["seeds"]:
        if seed["gain"] is not None:
            error = "" if seed["gain_se"] is None else f" ± {seed['gain_se']:.4f}"
            yield f"{seed['gain']:+.4f}{error} ({'kept' if seed['fate'] == 'kept' else 'undone'})"
