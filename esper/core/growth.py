"""Where a run's growth begins, for whoever counts it."""

from __future__ import annotations

from esper.leyline import GrowthState


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
