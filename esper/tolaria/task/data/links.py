"""Links that lead nowhere: told as what they are, because "no such file" about a name that is there misleads."""

from __future__ import annotations

import os
from pathlib import Path

from esper.core.errors import ConfigError


def check_link(path: Path) -> None:
    """Raise ConfigError where the path is a link and nothing is where it leads."""
    if path.is_symlink() and not path.exists():
        remedy = f"is a link to {os.readlink(path)}, where nothing is; remove the link or restore what it leads to"
        raise ConfigError("data", str(path), remedy)
