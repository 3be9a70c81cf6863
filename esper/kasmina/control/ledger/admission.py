"""Admission: a signed request is believed once, and what it does is stored together with its nonce.

Order: verify the envelope; open the authenticated payload; then one transaction for the nonce and the work. A
payload that can't be used costs its nonce too. Every refusal is counted and told.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from esper.core.clock import Clock
from esper.core.errors import CommandRejected, EsperError, InvalidSignature
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import Verifier, open_payload
from esper.core.storage.store import SqliteStore
from esper.core.tracing import tracer
from esper.kasmina.control.ledger import database
from esper.kasmina.control.reporting import Reporting
from esper.leyline import RejectionReason, SignedCommand

AUDIENCE_PREFIX = "kasmina/"
_TRACER = tracer("esper.kasmina")

P = TypeVar("P", bound=Message)
T = TypeVar("T")


class RunBound(Protocol):
    """What every signed payload of this service has."""

    training_run_id: str


async def committed(future: Future[T]) -> T:
    """The result, once it is on the disk. A caller that goes away doesn't undo what the writer does."""
    return await asyncio.shield(asyncio.wrap_future(future))


class Admission:
    """The door for signed requests."""

    def __init__(
        self, verifier: Verifier, ledger: NonceLedger, store: SqliteStore, clock: Clock, reporting: Reporting
    ) -> None:
        self._verifier = verifier
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._reporting = reporting

    def verified(self, envelope: SignedCommand, payload_class: type[P]) -> None:
        """Raise the CommandRejected that says why the envelope isn't believed."""
        run_id = envelope.audience.removeprefix(AUDIENCE_PREFIX)
        audience = f"{AUDIENCE_PREFIX}{run_id or '<training run id>'}"
        with _TRACER.start_as_current_span("kasmina.verify"), self._told():
            self._verifier.verify(envelope, audience=audience, payload_type=payload_class.DESCRIPTOR.full_name)

    async def opened(self, envelope: SignedCommand, payload_class: type[P]) -> P:
        """The payload of a verified envelope; one that can't be used is recorded with its nonce."""
        with self._told():
            try:
                payload = open_payload(envelope, payload_class)
                _require_run(envelope, payload)
            except CommandRejected as rejection:
                await self._record(envelope, rejection)
                raise
        return payload

    async def commit(self, envelope: SignedCommand, work: Callable[[sqlite3.Connection], T]) -> T:
        """Enter the nonce and do the work in one transaction. Work that raises is undone; its nonce stays used."""

        def piece(connection: sqlite3.Connection) -> T | EsperError:
            self._ledger.register(connection, envelope.security)
            connection.execute("SAVEPOINT work")
            try:
                return work(connection)
            except EsperError as error:
                connection.execute("ROLLBACK TO work")
                return error
            finally:
                connection.execute("RELEASE work")

        with self._told():
            with _TRACER.start_as_current_span("kasmina.ledger_commit"):
                result = await committed(self._store.submit(piece))
            if isinstance(result, EsperError):
                raise result
        self._reporting.counters.accepted += 1
        return result

    async def _record(self, envelope: SignedCommand, rejection: CommandRejected) -> None:
        def piece(connection: sqlite3.Connection) -> None:
            self._ledger.register(connection, envelope.security)
            database.insert_rejection(connection, self._clock.now_ns(), rejection, envelope)

        await committed(self._store.submit(piece))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Count and tell the refusal that ends what is inside."""
        try:
            yield
        except CommandRejected as rejection:
            self._reporting.reject(rejection.reason, rejection.detail, rejection.command_id)
            raise


def _require_run(envelope: SignedCommand, payload: Message) -> None:
    """The run in the payload is the run that the envelope was signed for."""
    run_id = str(getattr(payload, "training_run_id", ""))
    if envelope.audience != f"{AUDIENCE_PREFIX}{run_id}":
        reason = RejectionReason.REJECTION_REASON_WRONG_AUDIENCE
        raise InvalidSignature(reason, f"signed for {envelope.audience!r}, but its payload is for run {run_id!r}")
