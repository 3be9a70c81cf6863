"""Names of parameters by pattern: "head" is whatever stands in it, "blocks.*.norm1" and "*.bias" are globs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from esper.core.errors import ConfigError
from esper.core.nearest import nearest

SHOWN = 3


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns names the parameter, or a module that it is in."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def check_patterns(setting: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raises ConfigError for a pattern that names nothing."""
    for pattern in patterns:
        if not any(fits(name, [pattern]) for name in names):
            parts = {name[:end] for name in names for end in range(len(name) + 1) if name[end : end + 1] in ("", ".")}
            near = nearest(pattern, sorted(parts))
            hint = f"did you mean {near}?" if near else f"its parameters are {listed(names)}"
            raise ConfigError(setting, pattern, f"names no parameter of the model; {hint}")


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + more
