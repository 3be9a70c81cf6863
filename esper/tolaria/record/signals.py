"""Smoothed signals of a run, from losses, hits and gradient norms alone: equal steps give equal signals."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

from esper.tolaria.record.observer import StepDone


@dataclass(slots=True)
class Smoothed:
    """Exponentially weighted mean and variance of a sequence; the newest value weighs `weight`."""

    weight: float
    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take one more value."""
        self.count += 1
        if self.count == 1:
            self.mean = value
            return
        difference = value - self.mean
        self.mean += self.weight * difference
        self.variance = (1 - self.weight) * (self.variance + self.weight * difference * difference)

    @property
    def standard_error(self) -> float | None:
        """Of the smoothed mean, taking values as independent; None while too few are known."""
        if self.count < 2:
            return None
        return sqrt(self.variance * self.weight / (2 - self.weight))


class Signals:
    """What the policy is told of the run's course."""

    def __init__(self, weight: float) -> None:
        self.loss = Smoothed(weight)
        self.accuracy = Smoothed(weight)
        self.gradient_norm = Smoothed(weight)
        self.conflict_rate = Smoothed(weight)

    def add(self, done: StepDone) -> None:
        """Take one more step; what it didn't measure, or what overflowed, changes nothing."""
        self.loss.add(done.loss)
        for smoothed, value in (
            (self.accuracy, done.accuracy),
            (self.gradient_norm, done.gradient_norm),
            (self.conflict_rate, done.conflict_rate),
        ):
            if value is not None and isfinite(value):
                smoothed.add(value)

    def state_dict(self) -> dict[str, list[float]]:
        """Mean, variance and count of each signal."""
        return {name: [s.mean, s.variance, float(s.count)] for name, s in self._named()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Go on from a saved state."""
        for name, smoothed in self._named():
            smoothed.mean, smoothed.variance, count = state[name]
            smoothed.count = int(count)

    def _named(self) -> tuple[tuple[str, Smoothed], ...]:
        return (
            ("loss", self.loss),
            ("accuracy", self.accuracy),
            ("gradient_norm", self.gradient_norm),
            ("conflict_rate", self.conflict_rate),
        )
