"""A time that was measured, in the unit in which people read it: 0.4 ms, 812 ms, 5.2 s, 10 min."""

from __future__ import annotations

# A unit, its seconds, and the seconds from which it is used: 100 s are read as seconds still.
_UNITS = (("d", 86_400.0, 172_800.0), ("h", 3_600.0, 7_200.0), ("min", 60.0, 120.0), ("s", 1.0, 1.0))
_SHORTEST = ("ms", 1e-3)


def lasted(seconds: float) -> str:
    """In three digits, so that a time that passed is never called 0."""
    seconds = float(f"{seconds:.3g}")
    name, unit_s = next(((name, unit_s) for name, unit_s, least_s in _UNITS if abs(seconds) >= least_s), _SHORTEST)
    return f"{float(f'{seconds / unit_s:.3g}'):g} {name}"


def lasted_ms(milliseconds: float) -> str:
    """The same, of a time in milliseconds."""
    return lasted(milliseconds / 1e3)
