"""Strict dependencies: what must be there is there, or the caller hears which one is not. Nothing is substituted."""

from __future__ import annotations

from typing import TypeVar

from esper.core.errors import DependencyViolationError

T = TypeVar("T")


def require(entry: T | None, subsystem: str, kind: str, identifier: str, remedy: str) -> T:
    """`entry` itself, or DependencyViolationError if it is None: wrap every look-up that must succeed."""
    if entry is None:
        raise DependencyViolationError(subsystem, kind, identifier, remedy)
    return entry
