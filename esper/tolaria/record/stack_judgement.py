"""What the summary tells of a stack's judgement: its last look's figures, how many looks there were, what they cost.

Gains and scores are in the judge's own unit: nats a token for a language model, Brier for classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esper.leyline import GateEvidence, StackTest

FIGURES = ("gain", "standard_error", "margin", "z", "z_threshold", "clipped_share", "gain_at_equal_flops")
FORECASTS = {"grown": "forecast_grown", "twin": "forecast_twin", "twin_at_equal_flops": "forecast_twin_at_equal_flops"}


def with_look(looks: Sequence[GateEvidence], look: GateEvidence) -> list[GateEvidence]:
    """One more look; one at the same step is the same, told again."""
    return [*(known for known in looks if known.step < look.step), look]


def judgement(looks: Sequence[GateEvidence], evaluation_macs: int) -> dict[str, Any] | None:
    """Figures of the last look, null where it had none; None for a seed that no look was taken at."""
    if not looks:
        return None
    test = looks[-1].stack
    told = {name: _measured(test, name) for name in FIGURES}
    return {
        "looks": len(looks),
        "step": looks[-1].step,
        "gain": told.pop("gain"),
        "gain_standard_error": told.pop("standard_error"),
        **told,
        "forecast": {name: _measured(test, field) for name, field in FORECASTS.items()},
        "evaluation_macs": evaluation_macs,
    }


def _measured(test: StackTest, name: str) -> float | None:
    return getattr(test, name) if test.HasField(name) else None
