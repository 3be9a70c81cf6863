"""Signed requests: verified, their nonce stored in one transaction with what they do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from esper.core.errors import EsperError, InvalidSignature
from esper.core.process.awaited import awaited
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import Verifier, open_payload
from esper.core.storage.store import SqliteStore
from esper.leyline import RejectionReason, SignedCommand

M = TypeVar("M", bound=Message)
T = TypeVar("T")
AUDIENCE = "weatherlight/"
WHOLE_PLANE = "-"


def audience_of(run: str | None) -> str:
    """Whom a request about a run, or about the whole plane, must be signed for."""
    return AUDIENCE + (run or WHOLE_PLANE)


class SignedRequests:
    """Opens envelopes for Weatherlight, each once."""

    def __init__(self, verifier: Verifier, ledger: NonceLedger, store: SqliteStore) -> None:
        self._verifier = verifier
        self._ledger = ledger
        self._store = store

    async def perform(
        self,
        envelope: SignedCommand,
        message_class: type[M],
        run_of: Callable[[sqlite3.Connection, M], str | None],
        act: Callable[[sqlite3.Connection, M], T],
        and_then: Callable[[M, T], object] = lambda message, done: None,
    ) -> tuple[M, T]:
        """Do what the envelope's message asks for, or raise why not; the nonce is used up either way.

        What was done is followed by `and_then`, also if the caller has gone meanwhile.
        """
        expected = envelope.audience if envelope.audience.startswith(AUDIENCE) else audience_of(None)
        self._verifier.verify(envelope, audience=expected, payload_type=message_class.DESCRIPTOR.full_name)

        def work(db: sqlite3.Connection) -> tuple[M, T] | EsperError:
            self._ledger.register(db, envelope.security)
            try:
                message = open_payload(envelope, message_class)
                _require_audience(envelope, run_of(db, message))
                return message, act(db, message)
            except EsperError as error:
                # Returned, not raised: raising would undo the nonce.
                return error

        def follow(result: tuple[M, T] | EsperError) -> None:
            if not isinstance(result, EsperError):
                and_then(*result)

        result = await awaited(self._store.submit(work), follow)
        if isinstance(result, EsperError):
            raise result
        return result


def _require_audience(envelope: SignedCommand, run: str | None) -> None:
    if envelope.audience != audience_of(run):
        reason = RejectionReason.REJECTION_REASON_WRONG_AUDIENCE
        raise InvalidSignature(reason, f"signed for {envelope.audience!r}, the message is for {audience_of(run)!r}")
