"""Where a run's growth begins, and how long a stack's life is, for whoever counts it."""

from __future__ import annotations

import math

from esper.leyline import GrowthState, LifeSettings


def no_growth() -> GrowthState:
    """Counters of a run in which nothing has grown yet."""
    return GrowthState(
        looks_since_fossil=0,
        culls_in_row=0,
        germinated=0,
        judged=0,
        kept=0,
        ended=False,
        paused=False,
        added_parameters=0,
    )


def stack_window_steps(life: LifeSettings, total_steps: int) -> int:
    """Steps of a stack's window before the run has seen one recover."""
    longest = math.floor(life.stack.window_fraction * total_steps)
    return min(longest, math.ceil(life.stack.window_recoveries * min(life.stack.recovery_steps, longest)))


def stack_life_steps(life: LifeSettings, total_steps: int) -> int:
    """Steps from the decision to grow a stack until its fate is carried out, and a recovery in which it pays."""
    recovery = min(life.stack.recovery_steps, math.floor(life.stack.window_fraction * total_steps))
    return stack_window_steps(life, total_steps) + recovery + 4 * life.reaction_steps
