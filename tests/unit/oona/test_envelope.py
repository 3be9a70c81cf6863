"""An envelope's seal covers everything that its publisher wrote."""

from __future__ import annotations

import pytest

from esper.core.clock import NS_PER_S, ManualClock, timestamp
from esper.core.errors import ContractError, InvalidSignature
from esper.core.security.keys import Key, Keyring, KeySet
from esper.leyline import BusEnvelope, BusLane, MessagePriority, TelemetryPacket
from esper.oona.envelope import check, check_kept, seal, span_attributes
from tests.unit.oona.buses import KEYRING, an_envelope

NOW_NS = ManualClock().now_ns()
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
    check(KEYRING, an_envelope("a"), NOW_NS)


@pytest.mark.parametrize("field", CHANGES)
def test_any_changed_field_breaks_the_seal(field: str) -> None:
    envelope = an_envelope("a")
    setattr(envelope, field, CHANGES[field])
    with pytest.raises(InvalidSignature):
        check(KEYRING, envelope, NOW_NS)


def test_a_changed_time_breaks_the_seal() -> None:
    envelope = an_envelope("a")
    envelope.time.CopyFrom(timestamp(1))
    with pytest.raises(InvalidSignature):
        check(KEYRING, envelope, NOW_NS)


def test_every_flipped_bit_of_the_payload_breaks_the_seal() -> None:
    envelope = an_envelope("a")
    payload = envelope.payload
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        envelope.payload = bytes(flipped)
        with pytest.raises(InvalidSignature):
            check(KEYRING, envelope, NOW_NS)


def test_what_the_bus_adds_does_not_break_the_seal() -> None:
    envelope = an_envelope("a")
    envelope.sequence, envelope.attempt = 7, 2
    check(KEYRING, envelope, NOW_NS)


def test_an_incomplete_envelope_is_refused_with_every_missing_field() -> None:
    with pytest.raises(ContractError, match=r"event_id is required.*signature is required"):
        check(KEYRING, BusEnvelope(), NOW_NS)


def ended(clock: ManualClock) -> tuple[Keyring, Keyring]:
    """Whoever kept the first key, and a keyring in which it has ended."""
    secrets = [f"{letter}-secret-0123456789-abcdefghijklm" for letter in "ab"]
    key = Key(key_id="k1", secret=secrets[0], accepted_until_ns=clock.now_ns())
    keys = Keyring(KeySet(active="k2", keys=(key, Key(key_id="k2", secret=secrets[1]))))
    return Keyring.from_secret(secrets[0]), keys


@pytest.mark.parametrize("set_back_s", [0.0, 1.0, 3600.0, 1e9])
def test_an_envelope_of_a_revoked_key_is_refused_whatever_its_time(set_back_s: float) -> None:
    clock = ManualClock()
    stolen, keys = ended(clock)
    clock.advance(60.0)
    forged = _sealed(stolen, ManualClock(now_ns=clock.now_ns() - round(set_back_s * NS_PER_S)))
    with pytest.raises(InvalidSignature, match="ended key"):
        check(keys, forged, clock.now_ns())


def test_what_was_checked_when_it_arrived_stands_after_its_key_has_ended() -> None:
    clock = ManualClock()
    signer, keys = ended(clock)
    envelope = _sealed(signer, clock)
    check(keys, envelope, clock.now_ns())
    clock.advance(60.0)
    check_kept(keys, envelope)
    envelope.payload += b"x"
    with pytest.raises(InvalidSignature):
        check_kept(keys, envelope)


def _sealed(keyring: Keyring, clock: ManualClock) -> BusEnvelope:
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    return seal(keyring, clock, TelemetryPacket(), source="test", lane=lane, priority=priority)


def test_a_span_names_the_command_that_its_packet_is_about() -> None:
    packet = TelemetryPacket()
    assert "esper.command.id" not in span_attributes("publish", packet)
    packet.events.add(name="x").attributes.add(key="command_id", text="c1")
    assert span_attributes("publish", packet)["esper.command.id"] == "c1"
