"""TrainingMetrics made of plain numbers; an unknown number stays absent, never zero.

What a decision may rest on is in `DETERMINISTIC`; `MEASURED` holds what depends on the machine and its load.
"""

from __future__ import annotations

from collections.abc import Mapping

from esper.leyline import TrainingMetrics

_FIRST_MEASURED_NUMBER = 30

DETERMINISTIC: tuple[str, ...] = tuple(
    f.name for f in TrainingMetrics.DESCRIPTOR.fields if f.number < _FIRST_MEASURED_NUMBER
)
MEASURED: tuple[str, ...] = tuple(
    f.name for f in TrainingMetrics.DESCRIPTOR.fields if f.number >= _FIRST_MEASURED_NUMBER
)

_NAMES = frozenset(DETERMINISTIC) | frozenset(MEASURED)


def pack(values: Mapping[str, float | None]) -> TrainingMetrics:
    """The message with these numbers; None means not measured. An unknown name is a ValueError."""
    unknown = sorted(values.keys() - _NAMES)
    if unknown:
        raise ValueError(f"TrainingMetrics has no field {', '.join(unknown)}")
    known = {name: value for name, value in values.items() if value is not None}
    return TrainingMetrics(**known)  # type: ignore[arg-type]
