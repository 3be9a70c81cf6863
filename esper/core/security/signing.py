"""Signed envelopes: the bytes that are sent are the bytes that are signed, and nobody serialises them again.

The signing input binds algorithm, key, audience, payload type, nonce, both times and the payload, each with its
length. `Verifier.verify` answers for the envelope and `open_payload` for the message in it; the nonce is the
ledger's, because it must be stored together with what the command did.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import struct
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from esper.core.clock import NS_PER_S, Clock, duration, nanoseconds, timestamp
from esper.core.errors import (
    CommandRejected,
    ConfigError,
    FutureCommand,
    InvalidSignature,
    MissingSignature,
    StaleCommand,
)
from esper.core.lasted import lasted
from esper.core.messages.validation import submessages, violations
from esper.core.security.keys import Keyring
from esper.leyline import CommandSecurity, RejectionReason, SignedCommand

MAX_FRESHNESS_NS = 120 * NS_PER_S
MAX_AHEAD_NS = 5 * NS_PER_S
_INPUT_LABEL = b"ESPER-CMD-V1\n"
_NONCE = re.compile(r"[0-9A-Za-z_-]{22,64}\Z")
_LAST_SECOND = 253_402_300_799  # end of the year 9999, where Timestamp ends

M = TypeVar("M", bound=Message)


def new_nonce() -> str:
    """32 hex characters that hold 128 random bits."""
    return secrets.token_hex(16)


def signing_input(envelope: SignedCommand) -> bytes:
    """Every byte that the signature covers."""
    security = envelope.security
    texts = (security.algorithm, security.key_id, envelope.audience, envelope.payload_type, security.nonce)
    return b"".join(
        (
            _INPUT_LABEL,
            *(_with_length(text.encode()) for text in texts),
            _time_bytes(security.issued_at),
            _time_bytes(security.freshness_window),
            _with_length(envelope.payload),
        )
    )


def signature_of(key: bytes, envelope: SignedCommand) -> str:
    """Lower-case hex HMAC-SHA256 of the signing input."""
    return hmac.digest(key, signing_input(envelope), hashlib.sha256).hex()


class Signer:
    """Signs with the keyring's active key."""

    def __init__(self, keyring: Keyring, clock: Clock, nonces: Callable[[], str] = new_nonce) -> None:
        self._keyring = keyring
        self._clock = clock
        self._nonces = nonces

    def sign(self, message: Message, *, audience: str, freshness_s: float = 60.0) -> SignedCommand:
        """Serialise `message` once and sign those bytes for `audience`."""
        now_ns = self._clock.now_ns()
        own = self._keyring.signing_key(now_ns)
        envelope = SignedCommand(
            payload=message.SerializeToString(deterministic=True),
            payload_type=message.DESCRIPTOR.full_name,
            audience=audience,
            security=CommandSecurity(
                nonce=self._nonces(),
                issued_at=timestamp(now_ns),
                freshness_window=duration(freshness_s),
                key_id=own.key_id,
                algorithm=own.algorithm,
            ),
        )
        envelope.security.signature = signature_of(own.key, envelope)
        return envelope


class Verifier:
    """Decides whether an envelope may be believed, in an order that tells a forger nothing."""

    def __init__(self, keyring: Keyring, clock: Clock, max_bytes: int = 262_144) -> None:
        self._keyring = keyring
        self._clock = clock
        self._max_bytes = max_bytes

    def verify(self, envelope: SignedCommand, *, audience: str, payload_type: str) -> None:
        """Raise the CommandRejected that says why; return if key, signature, audience, type and time are right."""
        size_bytes = envelope.ByteSize()
        if size_bytes > self._max_bytes:
            detail = f"the envelope has {size_bytes} bytes, at most {self._max_bytes} are allowed"
            raise CommandRejected(RejectionReason.REJECTION_REASON_TOO_LARGE, detail)
        _require_security(envelope)
        now_ns = self._clock.now_ns()
        if not self.is_authentic(envelope, now_ns):
            raise InvalidSignature(
                RejectionReason.REJECTION_REASON_INVALID_SIGNATURE,
                "the signature doesn't match, or its key has ended; check key id and secret, and send the payload as it"
                " was signed",
            )
        _require_use(envelope, audience, payload_type)
        require_fresh(envelope.security, now_ns)

    def is_authentic(self, envelope: SignedCommand, at_ns: int) -> bool:
        """Whether a key that was accepted at `at_ns` made this signature, whatever the age of the envelope."""
        security = envelope.security
        try:
            key = self._keyring.key(security.key_id, at_ns)
            algorithm = self._keyring.algorithm(security.key_id)
        except ConfigError as error:
            reason = RejectionReason.REJECTION_REASON_VERIFIER_UNAVAILABLE
            raise CommandRejected(reason, "no key is available to this service now") from error
        # An unknown key costs the same comparison as a known one, so that its absence can't be timed.
        expected = signature_of(key or b"unknown key", envelope)
        matches = hmac.compare_digest(expected.encode(), security.signature.encode())
        return matches and key is not None and security.algorithm == algorithm


def require_fresh(security: CommandSecurity, now_ns: int) -> None:
    """Refuse what was issued in the future or is outside its window, which the verifier caps."""
    issued_ns = nanoseconds(security.issued_at)
    if issued_ns > now_ns + MAX_AHEAD_NS:
        ahead = lasted((issued_ns - now_ns) / NS_PER_S)
        detail = f"issued {ahead} ahead of this service's clock, at most 5 s are allowed"
        raise FutureCommand(RejectionReason.REJECTION_REASON_ISSUED_IN_FUTURE, detail)
    if now_ns > expires_ns(security):
        detail = f"issued {lasted((now_ns - issued_ns) / NS_PER_S)} ago, outside its freshness window; sign it anew"
        raise StaleCommand(RejectionReason.REJECTION_REASON_STALE_COMMAND, detail)


def expires_ns(security: CommandSecurity) -> int:
    """Last moment at which the command may be believed."""
    return nanoseconds(security.issued_at) + min(nanoseconds(security.freshness_window), MAX_FRESHNESS_NS)


def open_payload(envelope: SignedCommand, message_class: type[M]) -> M:
    """The message in an envelope that was verified: parsed, without unknown fields, and valid."""
    message = message_class()
    try:
        message.ParseFromString(envelope.payload)
    except DecodeError as error:
        reason = RejectionReason.REJECTION_REASON_MALFORMED_PAYLOAD
        raise CommandRejected(reason, f"the payload is no {message.DESCRIPTOR.full_name}") from error
    command_id = str(getattr(message, "command_id", ""))
    if "command_id" in message.DESCRIPTOR.fields_by_name and not command_id:
        raise CommandRejected(RejectionReason.REJECTION_REASON_MISSING_COMMAND_ID, "command_id is required")
    unknown = unknown_fields(message)
    if unknown:
        detail = f"the payload has fields that this schema doesn't know: {', '.join(unknown)}"
        raise CommandRejected(RejectionReason.REJECTION_REASON_UNKNOWN_FIELD, detail, command_id)
    found = violations(message)
    if found:
        raise CommandRejected(RejectionReason.REJECTION_REASON_MALFORMED_PAYLOAD, "; ".join(found), command_id)
    return message


def unknown_fields(message: Message, path: str = "") -> list[str]:
    """Numbers of the fields, at any depth, that this schema doesn't know."""
    unknown = UnknownFieldSet(message)
    here = [f"{path or message.DESCRIPTOR.name}#{unknown[index].field_number}" for index in range(len(unknown))]
    return here + [found for name, child in submessages(message) for found in unknown_fields(child, path + name)]


def _require_security(envelope: SignedCommand) -> None:
    security = envelope.security
    missing = RejectionReason.REJECTION_REASON_MISSING_SIGNATURE
    for name in ("signature", "nonce", "key_id", "algorithm"):
        if not getattr(security, name):
            raise MissingSignature(missing, f"security.{name} is missing; `esper sign` shows a complete request")
    if not _NONCE.match(security.nonce):
        raise MissingSignature(missing, "security.nonce must be 22 to 64 of [0-9A-Za-z_-] with 128 random bits")
    for name in ("issued_at", "freshness_window"):
        if not security.HasField(name) or not _is_time(getattr(security, name)):
            reason = RejectionReason.REJECTION_REASON_MISSING_TIMESTAMP
            raise MissingSignature(reason, f"security.{name} is missing, negative or out of range")


def _require_use(envelope: SignedCommand, audience: str, payload_type: str) -> None:
    if envelope.audience != audience:
        reason = RejectionReason.REJECTION_REASON_WRONG_AUDIENCE
        raise InvalidSignature(reason, f"signed for {envelope.audience!r}, this is {audience!r}")
    if envelope.payload_type != payload_type:
        reason = RejectionReason.REJECTION_REASON_WRONG_PAYLOAD_TYPE
        raise InvalidSignature(reason, f"signed as {envelope.payload_type!r}, expected {payload_type!r}")


def _is_time(moment: Timestamp | Duration) -> bool:
    return 0 <= moment.seconds <= _LAST_SECOND and 0 <= moment.nanos < NS_PER_S


def _with_length(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _time_bytes(moment: Timestamp | Duration) -> bytes:
    return struct.pack(">qi", moment.seconds, moment.nanos)
