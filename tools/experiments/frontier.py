"""What a static network costs at a loss, and what it loses at a cost: between the budgets that were run, its loss is
linear in the logarithm of the cost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise
from math import exp, log

from plan import Plan
from rows import Row

BySeed = Mapping[int, Row]
Points = list[tuple[float, float]]


def frontier(plan: Plan, seed: int, by_arm: Mapping[str, BySeed], cost: str = "training_macs") -> Points:
    """Costs, rising, and test losses of the frontier's runs of a seed, but for those that don't know their cost."""
    rows = [by_arm[arm][seed] for arm in plan.frontier if seed in by_arm[arm]]
    return sorted((row[cost], row["test_loss"]) for row in rows if row.get(cost))


def cost_at(points: Points, loss: float) -> float | None:
    """What the frontier costs at a loss; at one below all of it the cost of its best run, which is the least it can be.

    None of a loss above all of it, and without a frontier.
    """
    for (cheap, above), (dearer, below) in pairwise(points):
        if below <= loss <= above and below < above:
            return exp(log(cheap) + (above - loss) / (above - below) * log(dearer / cheap))
    if points and loss < min(reached for _, reached in points):
        return min(points, key=lambda point: point[1])[0]
    return None


def loss_at(points: Points, cost: float) -> float | None:
    """What the frontier loses at a cost; beyond its ends the last piece is drawn on. None without two points."""
    if len(points) < 2:
        return None
    place = min(max(bisect_left(points, (cost,)), 1), len(points) - 1)
    (cheap, above), (dearer, below) = points[place - 1], points[place]
    return above + (below - above) * log(cost / cheap) / log(dearer / cheap)


def is_within(points: Points, cost: float) -> bool:
    """Whether a cost lies between the ends of the frontier."""
    return bool(points) and points[0][0] <= cost <= points[-1][0]
