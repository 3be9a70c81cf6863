"""Nothing but the envelope that was signed is accepted, and nothing hostile gets further than a refusal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.core.clock import ManualClock
from esper.core.errors import CommandRejected
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer, Verifier, open_payload, signing_input
from esper.leyline import (
    AdaptationCommand,
    CommandSecurity,
    PauseOrder,
    SignedCommand,
)

CLOCK = ManualClock()
KEYRING = Keyring.from_secret(new_secret())
AUDIENCE = "kasmina/run-1"
TYPE = AdaptationCommand.DESCRIPTOR.full_name
COMMAND = AdaptationCommand(
    command_id="c1",
    training_run_id="run-1",
    generation=0,
    step=10,
    issued_by="operator:me",
    pause=PauseOrder(rationale="lunch"),
)
SIGNED = Signer(KEYRING, CLOCK).sign(COMMAND, audience=AUDIENCE, freshness_s=0.75)

TEXTS = ("payload_type", "audience")
SECURITY_TEXTS = ("signature", "nonce", "key_id", "algorithm")
TIMES = ("issued_at", "freshness_window")


def accepts(envelope: SignedCommand) -> bool:
    """Whether the whole path takes it; anything but a CommandRejected is a failure of the test."""
    try:
        Verifier(KEYRING, CLOCK).verify(envelope, audience=AUDIENCE, payload_type=TYPE)
        open_payload(envelope, AdaptationCommand)
    except CommandRejected:
        return False
    return True


def copy() -> SignedCommand:
    return SignedCommand.FromString(SIGNED.SerializeToString())


def flips(raw: bytes) -> Iterator[bytes]:
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def flipped_texts(text: str) -> Iterator[str]:
    for raw in flips(text.encode()):
        try:
            yield raw.decode()
        except UnicodeDecodeError:
            # protobuf itself refuses a string that is no UTF-8; the wire test below covers it.
            continue


def changed(path: str, value: object) -> SignedCommand:
    envelope = copy()
    target: SignedCommand | CommandSecurity = envelope
    *parents, name = path.split(".")
    for parent in parents:
        target = getattr(target, parent)
    setattr(target, name, value)
    return envelope


def test_the_unchanged_envelope_is_accepted() -> None:
    assert accepts(copy())


@pytest.mark.parametrize("path", [*TEXTS, *(f"security.{name}" for name in SECURITY_TEXTS)])
def test_every_bit_flip_of_a_signed_text_is_refused(path: str) -> None:
    value = SIGNED if "." not in path else SIGNED.security
    variants = list(flipped_texts(getattr(value, path.split(".")[-1])))
    assert len(variants) >= 7
    assert [variant for variant in variants if accepts(changed(path, variant))] == []


def test_every_bit_flip_of_the_payload_is_refused() -> None:
    variants = list(flips(SIGNED.payload))
    assert len(variants) == 8 * len(SIGNED.payload) > 100
    assert [variant for variant in variants if accepts(changed("payload", variant))] == []


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("part", "bits"), [("seconds", 64), ("nanos", 32)])
def test_every_bit_flip_of_a_time_is_refused(name: str, part: str, bits: int) -> None:
    value = getattr(getattr(SIGNED.security, name), part)
    for bit in range(bits):
        flipped = (value ^ (1 << bit)) & ((1 << bits) - 1)
        flipped -= (1 << bits) if flipped >> (bits - 1) else 0
        assert not accepts(changed(f"security.{name}.{part}", flipped)), f"bit {bit}"


def test_every_bit_flip_on_the_wire_that_changes_the_message_is_refused() -> None:
    # protobuf ignores the top bits of a long 32-bit varint: such a flip leaves the very message that was signed.
    accepted = []
    for raw in flips(SIGNED.SerializeToString()):
        try:
            envelope = SignedCommand.FromString(raw)
        except DecodeError:
            continue
        if envelope != SIGNED and accepts(envelope):
            accepted.append(raw)
    assert accepted == []


def test_every_truncation_on_the_wire_is_refused() -> None:
    raw = SIGNED.SerializeToString()
    for size in range(len(raw)):
        try:
            envelope = SignedCommand.FromString(raw[:size])
        except DecodeError:
            continue
        assert not accepts(envelope), size


def test_neither_length_can_be_moved_from_one_field_to_the_next() -> None:
    envelope = copy()
    envelope.audience, envelope.payload_type = AUDIENCE + TYPE[:1], TYPE[1:]
    assert not accepts(envelope)


def any_text() -> st.SearchStrategy[str]:
    known = [AUDIENCE, TYPE, "k1", "hmac-sha256", SIGNED.security.nonce, SIGNED.security.signature, ""]
    return st.sampled_from(known) | st.text(st.characters(exclude_categories=["Cs"]), max_size=70)


@settings(max_examples=300)
@given(
    payload=st.sampled_from([SIGNED.payload, b""]) | st.binary(max_size=200),
    texts=st.tuples(*[any_text() for _ in range(6)]),
    times=st.tuples(*[st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2 * 10**9) for _ in range(2)]),
    nanos=st.tuples(*[st.integers(-(2**31), 2**31 - 1) for _ in range(2)]),
)
def test_no_envelope_whatsoever_gets_further_than_a_refusal(
    payload: bytes, texts: tuple[str, ...], times: tuple[int, ...], nanos: tuple[int, ...]
) -> None:
    envelope = SignedCommand(payload=payload, payload_type=texts[0], audience=texts[1])
    security = envelope.security
    security.signature, security.nonce, security.key_id, security.algorithm = texts[2:]
    security.issued_at.seconds, security.freshness_window.seconds = times
    security.issued_at.nanos, security.freshness_window.nanos = nanos
    assert not accepts(envelope)


@settings(max_examples=300)
@given(raw=st.binary(max_size=300))
def test_any_authenticated_bytes_are_opened_or_refused(raw: bytes) -> None:
    try:
        command = open_payload(SignedCommand(payload=raw), AdaptationCommand)
    except CommandRejected:
        return
    assert command.command_id


EDITS = st.lists(
    st.tuples(st.sampled_from(["change", "insert", "delete", "repeat"]), st.integers(0, 2**16), st.binary(max_size=8)),
    min_size=1,
    max_size=6,
)


def edited(raw: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, data in edits:
        at = place % (len(raw) + 1)
        rest = {
            "change": raw[at + len(data) :],
            "insert": raw[at:],
            "delete": raw[at + 1 + len(data) :],
            "repeat": raw[at:] + raw[: place % 50],
        }[kind]
        raw = raw[:at] + (b"" if kind == "delete" else data) + rest
    return raw


def refused_or_the_same(raw: bytes) -> None:
    try:
        envelope = SignedCommand.FromString(raw)
    except DecodeError:
        return
    # protobuf lets fields repeat and reorder: what counts is what they say in the end.
    assert not accepts(envelope) or signing_input(envelope) == signing_input(SIGNED)


@settings(max_examples=500)
@given(edits=EDITS)
def test_an_edited_envelope_is_refused_or_says_what_was_signed(edits: list[tuple[str, int, bytes]]) -> None:
    refused_or_the_same(edited(SIGNED.SerializeToString(), edits))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=20_000)
@given(edits=EDITS)
def test_a_long_siege_ends_in_refusals(edits: list[tuple[str, int, bytes]]) -> None:
    refused_or_the_same(edited(SIGNED.SerializeToString(), edits))
