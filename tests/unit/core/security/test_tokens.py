from __future__ import annotations

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import ConfigError
from esper.core.security.keys import Key, Keyring, KeySet, new_secret
from esper.core.security.tokens import is_run_token, is_service_token, new_run_token, service_token, token_digest


def test_a_run_token_has_43_characters_and_is_known_by_its_digest() -> None:
    token = new_run_token()
    assert len(token) == 43
    assert is_run_token(token, token_digest(token))
    assert not is_run_token(new_run_token(), token_digest(token))
    assert not is_run_token(None, token_digest(token))
    assert not is_run_token("", token_digest(token))


def test_a_service_token_is_for_one_service_and_one_keyring() -> None:
    keyring = Keyring.from_secret(new_secret())
    token = service_token(keyring, "tamiyo")
    assert is_service_token(keyring, "tamiyo", token)
    assert not is_service_token(keyring, "kasmina", token)
    assert not is_service_token(Keyring.from_secret(new_secret()), "tamiyo", token)


@pytest.mark.parametrize("token", ["", ":", "k1", "k1:", "k2:00", "k1:zz", "k1:ü"])
def test_a_malformed_service_token_is_refused(token: str) -> None:
    assert not is_service_token(Keyring.from_secret(new_secret()), "tamiyo", token)


def test_a_service_token_ends_with_its_key() -> None:
    clock = ManualClock()
    first = Key(key_id="k1", secret=new_secret())
    token = service_token(Keyring(KeySet(active="k1", keys=(first,))), "tamiyo", clock)
    rotated = KeySet(active="k1", keys=(first,)).with_key(Key(key_id="k2", secret=new_secret()))
    keyring = Keyring(rotated.accepting_until("k1", clock.now_ns()))
    assert is_service_token(keyring, "tamiyo", token, clock)
    clock.advance(1)
    assert not is_service_token(keyring, "tamiyo", token, clock)


def test_an_active_key_that_has_ended_makes_no_token() -> None:
    clock = ManualClock()
    ended = Key(key_id="k1", secret=new_secret(), accepted_until_ns=clock.now_ns() - 1)
    with pytest.raises(ConfigError, match="esper keys rotate"):
        service_token(Keyring(KeySet(active="k1", keys=(ended,))), "tamiyo", clock)
