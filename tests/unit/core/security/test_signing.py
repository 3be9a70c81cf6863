from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.clock import NS_PER_S, ManualClock
from esper.core.errors import (
    CommandRejected,
    ConfigError,
    FutureCommand,
    InvalidSignature,
    MissingSignature,
    StaleCommand,
)
from esper.core.security.keys import Key, Keyring, KeySet, derive_key, new_secret, write_keys
from esper.core.security.signing import Signer, Verifier, open_payload, signature_of
from esper.leyline import AdaptationCommand, PauseOrder, RejectionReason, SeedOperation, SignedCommand

AUDIENCE = "kasmina/run-1"
TYPE = "esper.leyline.v1.AdaptationCommand"
SECRET = new_secret()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keyring() -> Keyring:
    return Keyring.from_secret(SECRET)


@pytest.fixture
def envelope(clock: ManualClock, keyring: Keyring) -> SignedCommand:
    return Signer(keyring, clock).sign(pause(), audience=AUDIENCE)


@pytest.fixture
def verifier(clock: ManualClock, keyring: Keyring) -> Verifier:
    return Verifier(keyring, clock)


def pause() -> AdaptationCommand:
    return AdaptationCommand(
        command_id="c1",
        training_run_id="run-1",
        generation=0,
        step=10,
        issued_by="operator:me",
        pause=PauseOrder(rationale="lunch"),
    )


def sign_again(envelope: SignedCommand) -> SignedCommand:
    """A forger who holds the key: whatever the envelope says now is signed."""
    key = derive_key(SECRET.encode(), envelope.security.key_id)
    envelope.security.signature = signature_of(key, envelope)
    return envelope


def refusal(verifier: Verifier, envelope: SignedCommand) -> CommandRejected:
    with pytest.raises(CommandRejected) as refused:
        verifier.verify(envelope, audience=AUDIENCE, payload_type=TYPE)
    return refused.value


def reason(error: CommandRejected) -> str:
    return RejectionReason.Name(error.reason).removeprefix("REJECTION_REASON_")


def test_what_was_signed_verifies_and_opens_to_the_same_message(verifier: Verifier, envelope: SignedCommand) -> None:
    verifier.verify(envelope, audience=AUDIENCE, payload_type=TYPE)
    assert open_payload(envelope, AdaptationCommand) == pause()


def test_a_relay_may_serialise_the_envelope_anew(verifier: Verifier, envelope: SignedCommand) -> None:
    relayed = SignedCommand.FromString(envelope.SerializeToString())
    verifier.verify(relayed, audience=AUDIENCE, payload_type=TYPE)


def test_two_signatures_of_one_message_have_different_nonces(clock: ManualClock, keyring: Keyring) -> None:
    signer = Signer(keyring, clock)
    first, second = (signer.sign(pause(), audience=AUDIENCE) for _ in range(2))
    assert first.payload == second.payload
    assert first.security.nonce != second.security.nonce


@pytest.mark.parametrize("field", ["signature", "nonce", "key_id", "algorithm"])
def test_an_absent_part_of_the_security_block_is_a_missing_signature(
    verifier: Verifier, envelope: SignedCommand, field: str
) -> None:
    envelope.security.ClearField(field)
    error = refusal(verifier, envelope)
    assert isinstance(error, MissingSignature)
    assert reason(error) == "MISSING_SIGNATURE"
    assert field in error.detail


@pytest.mark.parametrize("field", ["issued_at", "freshness_window"])
def test_an_absent_time_is_a_missing_timestamp(verifier: Verifier, envelope: SignedCommand, field: str) -> None:
    envelope.security.ClearField(field)
    assert reason(refusal(verifier, sign_again(envelope))) == "MISSING_TIMESTAMP"


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-1, 0), (0, -1), (0, 1_000_000_000), (253_402_300_800, 0), (-(2**63), 0), (2**63 - 1, 0)]
)
def test_a_time_out_of_range_is_a_missing_timestamp(
    verifier: Verifier, envelope: SignedCommand, seconds: int, nanos: int
) -> None:
    envelope.security.issued_at.seconds = seconds
    envelope.security.issued_at.nanos = nanos
    assert reason(refusal(verifier, sign_again(envelope))) == "MISSING_TIMESTAMP"


@pytest.mark.parametrize("nonce", ["A" * 21, "A" * 65, "A" * 30 + " ", "A" * 30 + "\n", "ä" * 30])
def test_a_malformed_nonce_is_refused(verifier: Verifier, envelope: SignedCommand, nonce: str) -> None:
    envelope.security.nonce = nonce
    assert reason(refusal(verifier, sign_again(envelope))) == "MISSING_SIGNATURE"


def test_an_unknown_key_and_a_wrong_signature_look_alike(verifier: Verifier, envelope: SignedCommand) -> None:
    forged = SignedCommand()
    forged.CopyFrom(envelope)
    forged.security.signature = "0" * 64
    unknown = SignedCommand()
    unknown.CopyFrom(envelope)
    unknown.security.key_id = "k9"
    errors = [refusal(verifier, forged), refusal(verifier, unknown)]
    assert [type(error) for error in errors] == [InvalidSignature] * 2
    assert errors[0].detail == errors[1].detail
    assert errors[0].reason == errors[1].reason


def test_an_algorithm_that_is_not_the_keys_is_refused_even_when_it_is_signed(
    verifier: Verifier, envelope: SignedCommand
) -> None:
    envelope.security.algorithm = "none"
    assert reason(refusal(verifier, sign_again(envelope))) == "INVALID_SIGNATURE"


@pytest.mark.parametrize("signature", ["ä" * 64, "0" * 64, "\x00", "F" * 64])
def test_a_signature_of_any_text_is_refused_not_fatal(
    verifier: Verifier, envelope: SignedCommand, signature: str
) -> None:
    envelope.security.signature = signature
    assert reason(refusal(verifier, envelope)) == "INVALID_SIGNATURE"


def test_an_upper_case_signature_is_refused(verifier: Verifier, envelope: SignedCommand) -> None:
    envelope.security.signature = envelope.security.signature.upper()
    assert reason(refusal(verifier, envelope)) == "INVALID_SIGNATURE"


def test_a_command_for_another_run_is_refused(verifier: Verifier, clock: ManualClock, keyring: Keyring) -> None:
    other = Signer(keyring, clock).sign(pause(), audience="kasmina/run-2")
    assert reason(refusal(verifier, other)) == "WRONG_AUDIENCE"


def test_a_message_of_another_type_is_refused(verifier: Verifier, clock: ManualClock, keyring: Keyring) -> None:
    other = Signer(keyring, clock).sign(PauseOrder(rationale="x"), audience=AUDIENCE)
    assert reason(refusal(verifier, other)) == "WRONG_PAYLOAD_TYPE"


def test_a_type_cannot_be_renamed_after_signing(verifier: Verifier, clock: ManualClock, keyring: Keyring) -> None:
    other = Signer(keyring, clock).sign(PauseOrder(rationale="x"), audience=AUDIENCE)
    other.payload_type = TYPE
    assert reason(refusal(verifier, other)) == "INVALID_SIGNATURE"


def test_five_seconds_ahead_is_believed_and_more_is_not(
    verifier: Verifier, clock: ManualClock, envelope: SignedCommand
) -> None:
    signed_ns = clock.now_ns()
    clock.set(signed_ns - 5 * NS_PER_S)
    verifier.verify(envelope, audience=AUDIENCE, payload_type=TYPE)
    clock.set(signed_ns - 5 * NS_PER_S - 1)
    error = refusal(verifier, envelope)
    assert isinstance(error, FutureCommand)
    assert reason(error) == "ISSUED_IN_FUTURE"


@pytest.mark.parametrize(("window_s", "lasts_s"), [(60, 60), (0.5, 0.5), (120, 120), (86_400, 120)])
def test_the_window_is_the_senders_up_to_the_verifiers_cap(
    verifier: Verifier, clock: ManualClock, keyring: Keyring, window_s: float, lasts_s: float
) -> None:
    envelope = Signer(keyring, clock).sign(pause(), audience=AUDIENCE, freshness_s=window_s)
    clock.advance(lasts_s)
    verifier.verify(envelope, audience=AUDIENCE, payload_type=TYPE)
    clock.set(clock.now_ns() + 1)
    error = refusal(verifier, envelope)
    assert isinstance(error, StaleCommand)
    assert reason(error) == "STALE_COMMAND"


def test_an_envelope_over_the_limit_is_refused_before_anything_else(clock: ManualClock, keyring: Keyring) -> None:
    verifier = Verifier(keyring, clock, max_bytes=1000)
    assert reason(refusal(verifier, SignedCommand(payload=b"x" * 1001))) == "TOO_LARGE"


def test_a_lost_keyring_file_makes_the_verifier_unavailable(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "keyring"
    write_keys(path, KeySet(active="k1", keys=(Key(key_id="k1", secret=SECRET),)))
    keyring = Keyring.load(path)
    envelope = Signer(keyring, clock).sign(pause(), audience=AUDIENCE)
    path.unlink()
    assert reason(refusal(Verifier(keyring, clock), envelope)) == "VERIFIER_UNAVAILABLE"
    with pytest.raises(ConfigError):
        Signer(keyring, clock).sign(pause(), audience=AUDIENCE)


def test_a_key_that_has_ended_neither_signs_nor_verifies(clock: ManualClock, envelope: SignedCommand) -> None:
    key = Key(key_id="k1", secret=SECRET, accepted_until_ns=clock.now_ns())
    keyring = Keyring(KeySet(active="k1", keys=(key,)))
    Verifier(keyring, clock).verify(envelope, audience=AUDIENCE, payload_type=TYPE)
    clock.advance(0.001)
    assert reason(refusal(Verifier(keyring, clock), envelope)) == "INVALID_SIGNATURE"
    with pytest.raises(ConfigError, match="has ended"):
        Signer(keyring, clock).sign(pause(), audience=AUDIENCE)


def open_refusal(payload: bytes) -> CommandRejected:
    with pytest.raises(CommandRejected) as refused:
        open_payload(SignedCommand(payload=payload), AdaptationCommand)
    return refused.value


def test_bytes_that_do_not_parse_are_malformed() -> None:
    assert reason(open_refusal(b"\xff")) == "MALFORMED_PAYLOAD"


def test_an_unknown_field_is_refused_by_its_number_at_any_depth() -> None:
    command = pause()
    raw = command.SerializeToString()
    assert "AdaptationCommand#99" in open_refusal(raw + b"\x98\x06\x01").detail
    command.pause.MergeFromString(b"\x98\x06\x01")
    error = open_refusal(command.SerializeToString())
    assert reason(error) == "UNKNOWN_FIELD"
    assert "pause#99" in error.detail
    assert error.command_id == "c1"


def test_a_command_without_an_id_is_refused_for_that() -> None:
    command = pause()
    command.ClearField("command_id")
    assert reason(open_refusal(command.SerializeToString())) == "MISSING_COMMAND_ID"


def test_every_violation_of_a_payload_is_named() -> None:
    command = AdaptationCommand(command_id="c1", seed=SeedOperation())
    error = open_refusal(command.SerializeToString())
    assert reason(error) == "MALFORMED_PAYLOAD"
    for name in ("training_run_id", "generation", "step", "issued_by", "seed.seed_id", "seed.operation"):
        assert f"{name} is required" in error.detail


def test_zero_and_absent_are_different() -> None:
    command = pause()
    command.generation = 0
    open_payload(SignedCommand(payload=command.SerializeToString()), AdaptationCommand)
    command.ClearField("generation")
    assert "generation is required" in open_refusal(command.SerializeToString()).detail


def test_an_enum_value_that_nobody_knows_is_refused() -> None:
    command = pause()
    command.seed.CopyFrom(SeedOperation(seed_id="s1"))
    command.seed.MergeFromString(b"\x10\x63")
    assert "seed.operation has the unknown value 99" in open_refusal(command.SerializeToString()).detail
