"""A number with what it counts: one rank, two ranks."""

from __future__ import annotations


def counted(number: int, noun: str, many: str | None = None) -> str:
    """In words of a line; `many` is the plural where it isn't the noun with an s."""
    return f"{number:,} {noun if number == 1 else many or f'{noun}s'}"
