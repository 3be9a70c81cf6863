"""Student's t for whole degrees of freedom: tail and quantile, in plain Python.

The standard library has the normal distribution alone, and an error estimated from a handful of values needs the
heavier tail: at four degrees of freedom the one-sided 1 % point is 3.75 and not 2.33.
"""

from __future__ import annotations

import math
from functools import lru_cache

BISECTIONS = 200


def student_tail(t: float, freedom: int) -> float:
    """P(T > t) for t >= 0 and at least one degree of freedom; the finite series of Abramowitz and Stegun, 26.7.3-4."""
    if freedom < 1 or not t >= 0.0:
        raise ValueError(f"expected t >= 0 and freedom >= 1, got t = {t} and freedom = {freedom}")
    angle = math.atan2(t, math.sqrt(freedom))
    cosine_squared = math.cos(angle) ** 2
    is_odd = freedom % 2 == 1
    term = math.cos(angle) if is_odd else 1.0
    total = 0.0
    for index in range(1 if is_odd else 0, freedom - 1, 2):
        total += term
        term *= cosine_squared * (index + 1) / (index + 2)
    within = 2.0 / math.pi * (angle + math.sin(angle) * total) if is_odd else math.sin(angle) * total
    return max(0.0, 0.5 * (1.0 - within))


@lru_cache(maxsize=256)
def student_quantile(error: float, freedom: int) -> float:
    """The t that is exceeded with probability `error`, 0 < error <= 0.5."""
    if not 0.0 < error <= 0.5:
        raise ValueError(f"expected an error above 0 and at most 0.5, got {error}")
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > error:
        high *= 2.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_tail(middle, freedom) > error else (low, middle)
    return high
