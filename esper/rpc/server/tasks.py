"""Tasks that live for as long as the call that they serve, whose caller may leave at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def call_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task of a call. Who waits for it gets what it raises; after the caller has gone nobody does.

    asyncio would log a traceback for each such task, which a caller without a token could make come in a flood.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_heard)
    return task


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
