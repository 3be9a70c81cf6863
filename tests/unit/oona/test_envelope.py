"""An envelope's seal covers everything that its publisher wrote."""

from __future__ import annotations

import pytest

from esper.core.clock import NS_PER_S, ManualClock, timestamp
from esper.core.errors import ContractError, InvalidSignature
from esper.core.keys import Key, Keyring, KeySet
from esper.leyline import BusEnvelope, BusLane, MessagePriority, TelemetryPacket
from esper.oona.envelope import check, seal, span_attributes
from tests.unit.oona.buses import KEYRING, an_envelope

CHANGES = {
    "event_id": "other",
    "payload_type": "esper.leyline.v1.SystemStatePacket",
    "payload": b"other",
    "source": "other",
    "priority": MessagePriority.MESSAGE_PRIORITY_CRITICAL,
    "lane": BusLane.BUS_LANE_EMERGENCY,
    "signature": "0" * 64,
    "key_id": "k2",
}


def test_a_sealed_envelope_is_believed() -> None:
    check(KEYRING, an_envelope("a"))


@pytest.mark.parametrize("field", CHANGES)
def test_any_changed_field_breaks_the_seal(field: str) -> None:
    envelope = an_envelope("a")
    setattr(envelope, field, CHANGES[field])
    with pytest.raises(InvalidSignature):
        check(KEYRING, envelope)


def test_a_changed_time_breaks_the_seal() -> None:
    envelope = an_envelope("a")
    envelope.time.CopyFrom(timestamp(1))
    with pytest.raises(InvalidSignature):
        check(KEYRING, envelope)


def test_every_flipped_bit_of_the_payload_breaks_the_seal() -> None:
    envelope = an_envelope("a")
    payload = envelope.payload
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        envelope.payload = bytes(flipped)
        with pytest.raises(InvalidSignature):
            check(KEYRING, envelope)


def test_what_the_bus_adds_does_not_break_the_seal() -> None:
    envelope = an_envelope("a")
    envelope.sequence, envelope.attempt = 7, 2
    check(KEYRING, envelope)


def test_an_incomplete_envelope_is_refused_with_every_missing_field() -> None:
    with pytest.raises(ContractError, match=r"event_id is required.*signature is required"):
        check(KEYRING, BusEnvelope())


def test_a_key_that_has_ended_still_proves_what_it_signed_before() -> None:
    clock = ManualClock()
    secrets = [f"{letter}-secret-0123456789-abcdefghijklm" for letter in "ab"]
    ended = Key(key_id="k1", secret=secrets[0], accepted_until_ns=clock.now_ns())
    rotated = Keyring(KeySet(active="k2", keys=(ended, Key(key_id="k2", secret=secrets[1]))))
    before = _sealed(Keyring.from_secret(secrets[0]), clock)
    check(rotated, before)
    clock.advance(1.0)
    with pytest.raises(InvalidSignature):
        check(rotated, _sealed(Keyring.from_secret(secrets[0]), clock))
    assert clock.now_ns() % NS_PER_S == 0


def _sealed(keyring: Keyring, clock: ManualClock) -> BusEnvelope:
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    return seal(keyring, clock, TelemetryPacket(), source="test", lane=lane, priority=priority)


def test_a_span_names_the_command_that_its_packet_is_about() -> None:
    packet = TelemetryPacket()
    assert "esper.command.id" not in span_attributes("publish", packet)
    packet.events.add(name="x").attributes.add(key="command_id", text="c1")
    assert span_attributes("publish", packet)["esper.command.id"] == "c1"
