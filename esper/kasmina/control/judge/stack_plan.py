"""When a stack is looked at: all steps are fixed at the graft, before any evidence is seen.

A look whose time is chosen by the curve ("once it has crossed") picks upward excursions. So the window is sized by
recovery times known beforehand, the evaluations are even steps in a look's last third, and the error that each look may
spend stands in the plan. Errors add up as in the twin test (Bonferroni): how looks depend on each other is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from esper.core.errors import ConfigError

EARLY_LOOK = Fraction(2, 3)
SCORED_SHARE = Fraction(1, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSettings:
    """How stacks are judged.

    The last three say how the gain wanders between evaluations while nothing changes for good. They are measured, not
    chosen: restricted likelihood over the 37 recorded series, see docs/results.md for the fit and its reach.

    Raises ConfigError for a value that can't be used.
    """

    margin: float = 0.002
    """Gain that growth must exceed, in the score's unit: nats per token. About what two runs of one arm differ by."""
    error_rate: float = 0.02
    """Probability to keep what has no gain beyond the margin, over all looks since the last kept seed."""
    early_error_share: float = 0.1
    """Share of a window's error that a look at two thirds of it may spend, which can only keep; 0: there is none."""
    min_evaluations: int = 8
    """Evaluations in a look's last third."""
    min_samples: int = 300
    """Sequences, or whatever is scored, in each evaluation."""
    max_clipped_share: float = 0.01
    """Share of tokens, in either arm, whose loss may be clipped."""
    window_recoveries: float = 1.5
    """Window's length in times of recovery."""
    window_fraction: float = 0.1
    """Longest window, as a share of the run's steps."""
    wander_share: float = 0.14
    """Standard deviation of the wander, as a share of the deviation between sequences' differences."""
    wander_weight: int = 8
    """Degrees of freedom that `wander_share` counts for beside the scatter seen in the window."""
    memory_steps: float = 15.0
    """Steps after which the wander's correlation has fallen to 1/e."""

    def __post_init__(self) -> None:
        for key, holds, remedy in (
            ("margin", 0.0 <= self.margin < math.inf, "give a finite number of nats, 0 or more"),
            ("error_rate", 0.0 < self.error_rate <= 0.5, "give a probability above 0 and at most 0.5"),
            ("early_error_share", 0.0 <= self.early_error_share < 1.0, "give a share of 0 or more, below 1"),
            ("min_evaluations", self.min_evaluations >= 3, "give at least 3: scatter about a line needs them"),
            ("min_samples", self.min_samples >= 2, "give at least 2"),
            ("max_clipped_share", 0.0 <= self.max_clipped_share <= 1.0, "give a share from 0 to 1"),
            ("window_recoveries", 1.0 <= self.window_recoveries < math.inf, "give at least 1 time of recovery"),
            ("window_fraction", 0.0 < self.window_fraction <= 1.0, "give a share above 0 and at most 1"),
            ("wander_share", 0.0 < self.wander_share < math.inf, "give a finite share above 0"),
            ("wander_weight", self.wander_weight >= 0, "give 0 or more degrees of freedom"),
            ("memory_steps", 0.0 <= self.memory_steps <= 1e4, "give a number of steps from 0 to 10000"),
        ):
            if not holds:
                raise ConfigError(key, getattr(self, key), remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLook:
    """One look: evaluate both arms at `evaluations`, decide at the last of them. All are steps of the run."""

    evaluations: tuple[int, ...]
    error: float
    """Probability that this look may wrongly keep."""
    may_refuse: bool
    """True if what isn't kept here is culled: no further look is left, or has room."""

    @property
    def step(self) -> int:
        return self.evaluations[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class StackPlan:
    """All looks at one graft, in order."""

    graft_step: int
    window_steps: int
    looks: tuple[PlannedLook, ...]


def plan_looks(
    *, graft_step: int, recovery_steps: int, total_steps: int, end_step: int, look: int, settings: StackSettings
) -> StackPlan:
    """Fix every look at a graft: perhaps an early one, the window's end, and one more window where it has room.

    `recovery_steps` is what earlier grafts took to overtake their twin, or what a laboratory measured (60 to 220 at
    21 M parameters); `end_step` is where the constant learning rate ends; `look` is 1 plus the windows since the last
    kept seed, and window j spends error_rate / (j (j + 1)). Raises ConfigError if no window as long as the recovery
    fits.
    """
    for key, count in (("look", look), ("recovery_steps", recovery_steps)):
        if count < 1:
            raise ConfigError(key, count, "give at least 1")
    longest = math.floor(settings.window_fraction * total_steps)
    if longest < recovery_steps:
        raise ConfigError(
            "window_fraction",
            settings.window_fraction,
            f"its {longest} steps end before a stack has recovered, about {recovery_steps} after the graft; "
            f"give at least {math.ceil(1000 * recovery_steps / total_steps) / 1000}, or train longer",
        )
    window = min(longest, math.ceil(settings.window_recoveries * recovery_steps))
    if graft_step + window > end_step:
        raise ConfigError(
            "graft_step",
            graft_step,
            f"its window of {window} steps must end by step {end_step}, where growth ends; graft earlier",
        )
    if window * EARLY_LOOK * SCORED_SHARE < settings.min_evaluations:
        raise ConfigError(
            "min_evaluations",
            settings.min_evaluations,
            f"they don't fit into the last third of the first {math.floor(window * EARLY_LOOK)} steps after the graft; "
            "give fewer, or a longer window",
        )
    has_extension = graft_step + 2 * window <= end_step
    spent, early = window_error(look, settings), settings.early_error_share
    ends = [
        (math.floor(EARLY_LOOK * window), early * spent, False),
        (window, (1.0 - early) * spent, not has_extension),
        (2 * window, window_error(look + 1, settings), True),
    ]
    return StackPlan(
        graft_step=graft_step,
        window_steps=window,
        looks=tuple(
            PlannedLook(
                evaluations=_evaluations(graft_step, length, settings.min_evaluations), error=error, may_refuse=is_last
            )
            for length, error, is_last in ends[(0 if early else 1) : (3 if has_extension else 2)]
        ),
    )


def window_error(look: int, settings: StackSettings) -> float:
    """What the look-th window since the last kept seed may spend; all of them together spend `error_rate`."""
    return settings.error_rate / (look * (look + 1))


def _evaluations(graft_step: int, length: int, count: int) -> tuple[int, ...]:
    """`count` even steps of the run in the last third of `length`, the last at its end."""
    spacing = length * SCORED_SHARE / count
    return tuple(graft_step + length - math.floor(spacing * before) for before in reversed(range(count)))
