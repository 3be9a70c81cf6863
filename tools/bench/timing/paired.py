"""Statistics of runs that are compared in rounds: every arm once a round, ratios within rounds, medians over them.

A disturbance that outlasts a run meets all arms of its round, so the ratio within a round moves less than a time does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A median, the interval that holds the true median with 90 % confidence or more if there is one, and the range."""

    median: float
    interval: tuple[float, float] | None
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.median:.3f} (range {self.low:.3f} to {self.high:.3f}, n = {self.count})"


def spread(values: Sequence[float]) -> Spread:
    """Median and spread. Raises ValueError for no values, or for one that is no finite number."""
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected at least one value, all finite, got {list(values)}")
    return Spread(
        median=statistics.median(values),
        interval=sign_interval(values),
        low=min(values),
        high=max(values),
        count=len(values),
    )


def sign_interval(values: Sequence[float], confidence: float = 0.9) -> tuple[float, float] | None:
    """The narrowest pair of order statistics that covers the median so surely; no shape of noise is assumed."""
    ordered, count = sorted(values), len(values)
    found = None
    for outside in range((count + 1) // 2):
        tail = sum(math.comb(count, below) for below in range(outside + 1)) / 2**count
        if 1 - 2 * tail >= confidence:
            found = ordered[outside], ordered[-1 - outside]
    return found


def ratios(rounds: Sequence[Mapping[str, float]], arm: str, over: str) -> list[float]:
    """One arm's figure over another's, round by round."""
    return [figures[arm] / figures[over] for figures in rounds]


def order(arms: Sequence[str], round_index: int) -> tuple[str, ...]:
    """The arms of a round: each comes first, and each neighbour comes before and after, in turn."""
    turn = (round_index // 2) % len(arms)
    turned = (*arms[turn:], *arms[:turn])
    return tuple(reversed(turned)) if round_index % 2 else turned
