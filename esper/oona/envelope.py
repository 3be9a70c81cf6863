"""Sealing envelopes and checking seals. The signature covers everything that the publisher wrote."""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Mapping

from google.protobuf.message import DecodeError, Message

from esper.core.clock import Clock, nanoseconds, timestamp
from esper.core.errors import ContractError, InvalidSignature
from esper.core.messages.validation import require_valid
from esper.core.security.keys import Keyring
from esper.core.telemetry import attribute_value
from esper.leyline import (
    BusEnvelope,
    BusLane,
    FieldReport,
    MessagePriority,
    RejectionReason,
    TelemetryPacket,
    TraceContext,
)

_LABEL = b"ESPER-BUS-V1\n"
_BEFORE_ANY_END_NS = 0
_TAKEN: Mapping[str, type[Message]] = {kind.DESCRIPTOR.full_name: kind for kind in (TelemetryPacket, FieldReport)}
_PLACE_BYTES = struct.calcsize(">qii")


def seal(
    keyring: Keyring,
    clock: Clock,
    message: Message,
    *,
    source: str,
    lane: BusLane,
    priority: MessagePriority,
    event_id: str | None = None,
    trace: TraceContext | None = None,
) -> BusEnvelope:
    """A signed envelope around `message`."""
    now_ns = clock.now_ns()
    own = keyring.signing_key(now_ns)
    envelope = BusEnvelope(
        event_id=event_id or f"{source}-{secrets.token_hex(8)}",
        payload_type=message.DESCRIPTOR.full_name,
        payload=message.SerializeToString(),
        source=source,
        time=timestamp(now_ns),
        priority=priority,
        lane=lane,
        trace=trace,
        key_id=own.key_id,
    )
    envelope.signature = _signature(own.key, envelope)
    return envelope


def check(keyring: Keyring, envelope: BusEnvelope, now_ns: int) -> None:
    """Raise unless the envelope is complete and signed by a key that is accepted now.

    When it says that it was made doesn't count: whoever has a key that was revoked writes any time.
    """
    require_valid(envelope)
    _check_seal(keyring, envelope, now_ns)


def require_valid_payload(envelope: BusEnvelope) -> None:
    """Raise unless the payload is a valid message, where it is of a kind that Nissa takes from the bus."""
    kind = _TAKEN.get(envelope.payload_type)
    if kind is not None:
        try:
            require_valid(kind.FromString(envelope.payload))
        except DecodeError as error:
            raise ContractError(envelope.payload_type, [f"can't be read: {error}"]) from error


def check_kept(keyring: Keyring, envelope: BusEnvelope) -> None:
    """Raise unless an envelope is the one that was checked when it arrived: its key may have ended since."""
    _check_seal(keyring, envelope, _BEFORE_ANY_END_NS)


def _check_seal(keyring: Keyring, envelope: BusEnvelope, at_ns: int) -> None:
    key = keyring.key(envelope.key_id, at_ns)
    expected = _signature(key or b"unknown key", envelope)
    if not hmac.compare_digest(expected.encode(), envelope.signature.encode()) or key is None:
        reason = RejectionReason.REJECTION_REASON_INVALID_SIGNATURE
        raise InvalidSignature(reason, f"envelope {envelope.event_id!r}: unknown or ended key, or wrong signature")


def span_attributes(operation: str, packet: TelemetryPacket) -> dict[str, str]:
    """Attributes of a span about a packet on the bus; the command that it is about is what keeps a trace."""
    attributes = {"messaging.system": "oona", "messaging.operation.name": operation}
    for event in packet.events:
        for attribute in event.attributes:
            if attribute.key == "command_id":
                attributes["esper.command.id"] = str(attribute_value(attribute))
    return attributes


def _signature(key: bytes, envelope: BusEnvelope) -> str:
    """Over each part behind its length: every packet is sealed and checked, so they are packed at once."""
    a, b = envelope.key_id.encode(), envelope.event_id.encode()
    c, d = envelope.payload_type.encode(), envelope.source.encode()
    payload = envelope.payload
    signed = struct.pack(
        f">I{len(a)}sI{len(b)}sI{len(c)}sI{len(d)}sIqiiI",
        *(len(a), a, len(b), b, len(c), c, len(d), d),
        *(_PLACE_BYTES, nanoseconds(envelope.time), envelope.priority, envelope.lane),
        len(payload),
    )
    return hmac.digest(key, _LABEL + signed + payload, "sha256").hex()
