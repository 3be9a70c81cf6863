"""Where a run keeps its services' databases."""

from __future__ import annotations

from pathlib import Path

from esper.core.errors import ConfigError


def find(place: Path, name: str) -> Path:
    """The database `name` of the run in `place`; or `place` itself, if that is a file."""
    for path in (place / "services" / name, place / name, place):
        if path.is_file():
            return path
    raise ConfigError("RUN_DIR", str(place), f"services/{name} isn't there, and it is no such file itself")
