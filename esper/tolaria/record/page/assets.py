"""The page's built files: script, style and frame, made from `esper/ui/web` by `tools/ui`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from esper.core.errors import DependencyViolationError

NAMES = ("page.html", "page.js", "page.css")


@cache
def asset(name: str) -> bytes:
    """The content of one of `NAMES`."""
    path = files(__package__) / "static" / name
    if name not in NAMES or not path.is_file():
        raise DependencyViolationError("page", "file", name, "is not installed; in the source tree, tools/ui makes it")
    return path.read_bytes()
