"""Signed sheets: believed only whole, only by a key that is accepted now."""

from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import UntrustedBlueprint
from esper.core.security.keys import Key, Keyring, KeySet
from esper.core.security.signing import Signer
from esper.leyline import Blueprint, RunClosure, SignedCommand
from esper.urza.own.sheet import AUDIENCE, believed, signed_sheet
from tests.unit.urza.own.making import described

SECRET = "correct horse battery staple 0123456789 abcdef"
CLOCK = ManualClock(now_ns=1_800_000_000 * 10**9)
KEYS = Keyring.from_secret(SECRET)


@pytest.fixture
def blueprint(tmp_path: Path) -> Blueprint:
    return described(tmp_path).completed(1)[0]


def why(raw: bytes, keys: Keyring = KEYS, name: str = "lab.gated") -> str:
    with pytest.raises(UntrustedBlueprint) as raised:
        believed(raw, name, keys, CLOCK)
    assert "\n" not in str(raised.value)
    return raised.value.why


def test_a_sheet_is_believed_however_old(blueprint: Blueprint) -> None:
    sheet = signed_sheet(Signer(KEYS, CLOCK), blueprint)
    CLOCK.advance(10**8)
    assert believed(sheet, "lab.gated", KEYS, CLOCK) == blueprint


def test_each_changed_byte_is_noticed(blueprint: Blueprint) -> None:
    sheet = signed_sheet(Signer(KEYS, CLOCK), blueprint)
    for place in range(0, len(sheet), 17):
        damaged = bytearray(sheet)
        damaged[place] ^= 1
        assert why(bytes(damaged))
    assert "damaged" in why(sheet[:-3])


def test_keys_that_are_unknown_ended_or_of_another_secret_are_told_apart(blueprint: Blueprint) -> None:
    sheet = signed_sheet(Signer(KEYS, CLOCK), blueprint)
    assert "unknown" in why(sheet, Keyring.from_secret(SECRET, key_id="other"))
    assert "secret is another" in why(sheet, Keyring.from_secret(SECRET[::-1]))
    ended = Key(key_id="k1", secret=SECRET, accepted_until_ns=CLOCK.now_ns() - 1)
    now = Key(key_id="k2", secret=SECRET[::-1])
    assert "no longer accepted (there is k2)" in why(sheet, Keyring(KeySet(active="k2", keys=(ended, now))))


def test_a_sheet_is_that_of_its_name_and_nothing_else(blueprint: Blueprint) -> None:
    signer = Signer(KEYS, CLOCK)
    assert "lab.gated" in why(signed_sheet(signer, blueprint), name="lab.other")
    closure = signer.sign(RunClosure(training_run_id="r", generation=0, step=0, reason="x"), audience=AUDIENCE)
    assert "RunClosure" in why(closure.SerializeToString())
    elsewhere = signer.sign(blueprint, audience="kasmina/r")
    assert "for others" in why(elsewhere.SerializeToString())
    blueprint.digest = "0" * 64
    assert "torn" in why(signed_sheet(signer, blueprint))
    assert "damaged" in why(b"\xff\xff") or why(SignedCommand().SerializeToString())
