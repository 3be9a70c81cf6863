"""A run's loss in one line of a terminal: a block for each stretch, from the first step to now."""

from __future__ import annotations

import math

BLOCKS = "▁▂▃▄▅▆▇█"
MOST = 256
"""Values that are kept: when there are more, neighbours become one."""


class LossHistory:
    """Smoothed losses at boundaries, ever more of them in one value: a long run costs no more than a short one."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._sum, self._count, self._each = 0.0, 0, 1

    def add(self, loss: float) -> None:
        """Take one more; what is no number leaves no mark."""
        if not math.isfinite(loss):
            return
        self._sum += loss
        self._count += 1
        if self._count < self._each:
            return
        self._values.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._values) >= MOST:
            pairs = zip(self._values[::2], self._values[1::2], strict=True)
            self._values = [(first + second) / 2 for first, second in pairs]
            self._each *= 2

    def line(self, width: int) -> str:
        """The history in at most `width` characters; empty until two values are known."""
        if len(self._values) < 2 or width < 2:
            return ""
        share = max(1, math.ceil(len(self._values) / width))
        groups = [self._values[place : place + share] for place in range(0, len(self._values), share)]
        means = [sum(group) / len(group) for group in groups]
        return "".join(map(_block, _heights(means)))

    @property
    def ends(self) -> tuple[float, float] | None:
        """The first loss and the last; None until two are known."""
        return (self._values[0], self._values[-1]) if len(self._values) > 1 else None


def _heights(values: list[float]) -> list[float]:
    """Between 0 and 1, on a logarithmic scale where all are above 0: late progress is small."""
    shown = [math.log(value) for value in values] if min(values) > 0 else values
    low, high = min(shown), max(shown)
    return [(value - low) / (high - low) if high > low else 0.0 for value in shown]


def _block(height: float) -> str:
    return BLOCKS[min(len(BLOCKS) - 1, int(height * len(BLOCKS)))]
