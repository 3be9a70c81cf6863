"""A writer that is held in the middle of a signed request, so that its caller can go away meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from esper.core.security.ledger import NonceLedger
from esper.leyline import CommandSecurity

PATIENCE_S = 20.0


async def abandoned(monkeypatch: pytest.MonkeyPatch, request: Coroutine[Any, Any, object]) -> None:
    """Make the request, and give it up while its commit is under way; the commit is over when this returns."""
    begun, go_on, register = threading.Event(), threading.Event(), NonceLedger.register

    def held(ledger: NonceLedger, db: sqlite3.Connection, security: CommandSecurity) -> None:
        begun.set()
        go_on.wait(PATIENCE_S)
        register(ledger, db, security)

    with monkeypatch.context() as patched:
        patched.setattr(NonceLedger, "register", held)
        asking = asyncio.create_task(request)
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        go_on.set()
