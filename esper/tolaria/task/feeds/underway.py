"""Batches that are under way, and with them the processes that make them."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Iterator
from typing import Any


class Underway:
    """An iterator over batches that ends with its owner, which it must not know.

    Where a DataLoader's iterator becomes garbage in a circle, Python takes its queues apart before it can tell its
    workers to end, and torch waits five seconds for each. So the iterator stands outside of its owner's circles.
    """

    def __init__(self, owner: object, *, has_workers: bool) -> None:
        self._has_workers = has_workers
        self.iterator: Iterator[Any] | None = None
        weakref.finalize(owner, self.end)

    def next(self) -> Any:
        """The next batch. Whoever holds an error holds its frames, and these the iterator: they let go of it."""
        if self.iterator is None:
            raise StopIteration
        try:
            return next(self.iterator)
        except StopIteration:
            raise
        except BaseException as error:
            if self._has_workers:  # else they are of the user's code, which a debugger may want to look at
                self.end()
                traceback.clear_frames(error.__traceback__)
            raise

    def end(self) -> None:
        """Let go of the iterator; its workers end at once."""
        self.iterator = None
