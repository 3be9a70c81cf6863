"""Signed requests on their way in: authentic, for this service, of the right type, and acted on once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.message import Message

from esper.core.errors import EsperError, InvalidSignature, NonceReplayed, StorageError
from esper.core.security.signing import Verifier, open_payload
from esper.leyline import RejectionReason, SignedCommand
from esper.tamiyo.runs import RunBook

AUDIENCE = "tamiyo/"

M = TypeVar("M", bound=Message)


class Admission:
    """Lets signed requests in. Who acts on one stores its nonce with the change; a refusal spends it here."""

    def __init__(self, verifier: Verifier, runs: RunBook) -> None:
        self._verifier = verifier
        self._runs = runs

    @asynccontextmanager
    async def admitted(self, envelope: SignedCommand, payload: type[M]) -> AsyncIterator[tuple[M, str]]:
        """The message in an envelope and the run that it was signed for. Raises CommandRejected."""
        run_id = envelope.audience.removeprefix(AUDIENCE)
        self._verifier.verify(envelope, audience=f"{AUDIENCE}{run_id}", payload_type=payload.DESCRIPTOR.full_name)
        try:
            message = open_payload(envelope, payload)
            _require_same_run(message, run_id)
            yield message, run_id
        except (NonceReplayed, StorageError):
            raise
        except EsperError:
            # An authentic request that was refused must not be tried again with the same signature.
            await self._runs.spend(envelope.security)
            raise


def _require_same_run(message: Message, run_id: str) -> None:
    named = getattr(message, "training_run_id", run_id)
    if named != run_id:
        reason = RejectionReason.REJECTION_REASON_WRONG_AUDIENCE
        raise InvalidSignature(reason, f"signed for {AUDIENCE}{run_id}, but it is about run {named}")
