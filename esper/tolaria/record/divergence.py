"""Whether a loss diverges: by its smoothed course alone, so that equal steps give equal findings.

Every measure is relative to what the loss began with and how far it has fallen: its scale and sign don't matter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from esper.tolaria.record.signals import Smoothed

BEGINNING_STEPS = 20
"""Until then the smoothed loss is no more than its first values."""
NOISES = 6.0
"""Standard deviations of the first losses: what a rise must exceed at least."""


@dataclass(slots=True)
class Divergence:
    """The smoothed loss against its beginning and its best."""

    begun: float | None = None
    noise: float = 0.0
    best: float = 0.0
    now: float = 0.0

    def note(self, loss: Smoothed) -> None:
        """Take the smoothed loss after one more step."""
        self.now = loss.mean
        if loss.count < BEGINNING_STEPS:
            return
        if self.begun is None:
            self.begun = self.best = loss.mean
            self.noise = max(loss.variance, 0.0) ** 0.5
        self.best = min(self.best, loss.mean)

    @property
    def limit(self) -> float:
        """Above it the loss has diverged: as far above its beginning as its best lay below."""
        if self.begun is None:
            return float("inf")
        return self.begun + max(self.begun - self.best, NOISES * self.noise)

    @property
    def is_found(self) -> bool:
        """Whether the loss has diverged."""
        return self.now > self.limit

    @property
    def is_near(self) -> bool:
        """Whether the loss has lost half of what it had gained: no state to go back to."""
        if self.begun is None:
            return False
        return self.now > self.best + max((self.begun - self.best) / 2, NOISES / 2 * self.noise)

    def state_dict(self) -> dict[str, float | None]:
        """Plain values."""
        return asdict(self)
