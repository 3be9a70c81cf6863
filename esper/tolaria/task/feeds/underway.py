"""Batches that are under way, and with them the processes that make them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any


class Underway:
    """An iterator over batches that ends with its owner, which it must not know.

    Where a DataLoader's iterator becomes garbage in a circle, Python takes its queues apart before it can tell its
    workers to end, and torch waits five seconds for each. So the iterator stands outside of its owner's circles.
    """

    def __init__(self, owner: object) -> None:
        self.iterator: Iterator[Any] | None = None
        weakref.finalize(owner, self.end)

    def end(self) -> None:
        """Let go of the iterator; its workers end at once."""
        self.iterator = None
