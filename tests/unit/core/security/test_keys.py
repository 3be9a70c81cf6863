from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import ConfigError
from esper.core.security.keys import (
    KEYRING_VARIABLE,
    SECRET_VARIABLE,
    Key,
    Keyring,
    KeySet,
    derive_key,
    load_keyring,
    new_secret,
    read_keys,
    read_secret,
    write_keys,
)

NOW = ManualClock().now_ns()


def key_set(*ids: str) -> KeySet:
    return KeySet(active=ids[0], keys=tuple(Key(key_id=key_id, secret=new_secret()) for key_id in ids))


def test_a_new_secret_is_strong_and_never_the_same() -> None:
    assert len(new_secret()) == 43
    assert new_secret() != new_secret()
    Keyring.from_secret(new_secret())


@pytest.mark.parametrize("secret", ["", "short", "a" * 64, "ab" * 32, "0123456789" * 3])
def test_a_weak_secret_is_refused_and_never_shown(secret: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Keyring.from_secret(secret)
    assert refused.value.value == "(hidden)"
    assert len(secret) < 3 or secret not in str(refused.value)


def test_keys_of_one_secret_differ_by_id() -> None:
    keyring = Keyring(KeySet(active="k1", keys=(Key(key_id="k1", secret="s" * 40), Key(key_id="k2", secret="s" * 40))))
    assert keyring.key("k1", NOW) == derive_key(b"s" * 40, "k1") != keyring.key("k2", NOW)


def test_an_unknown_id_has_no_key_and_no_algorithm() -> None:
    keyring = Keyring.from_secret(new_secret())
    assert keyring.key("k2", NOW) is None
    assert keyring.algorithm("k2") is None
    assert keyring.algorithm("k1") == "hmac-sha256"


def test_a_key_is_accepted_up_to_its_date_and_not_after() -> None:
    keyring = Keyring(key_set("k1", "k0").accepting_until("k0", NOW))
    assert keyring.key("k0", NOW) is not None
    assert keyring.key("k0", NOW + 1) is None


def test_the_active_key_cannot_be_given_an_end() -> None:
    with pytest.raises(ConfigError, match="rotate"):
        key_set("k1").accepting_until("k1", NOW)


def test_a_keyring_file_is_private_and_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    keys = key_set("k1", "k2").accepting_until("k2", NOW)
    write_keys(path, keys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path) == keys


def test_a_pipe_in_place_of_a_keyring_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.json", mode=0o600)
    with pytest.raises(ConfigError, match=r"keys\.json.*no regular file"):
        read_keys(tmp_path / "keys.json")


def test_a_keyring_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    write_keys(path, key_set("k1"))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Keyring.load(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"active": "k1", "keys": []}',
        '{"active": "k1", "keys": [{"key_id": "k1", "secret": "weak"}]}',
        '{"active": "k1", "keys": [{"key_id": "k1", "secret": 5}]}',
    ],
)
def test_a_file_that_is_no_keyring_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keyring"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        Keyring.load(path)


def test_a_rotation_is_noticed_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    write_keys(path, key_set("k1"))
    keyring = Keyring.load(path)
    first = keyring.key("k1", NOW)
    write_keys(path, read_keys(path).with_key(Key(key_id="k2", secret=new_secret())).accepting_until("k1", NOW))
    assert keyring.active == "k2"
    assert keyring.key("k1", NOW) == first
    assert keyring.key("k1", NOW + 1) is None
    assert keyring.key_ids == ("k1", "k2")


def test_a_keyring_file_that_disappears_refuses_everything(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    write_keys(path, key_set("k1"))
    keyring = Keyring.load(path)
    os.unlink(path)
    with pytest.raises(ConfigError, match="can't be read"):
        keyring.key("k1", NOW)


def test_a_file_goes_before_the_secret_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    write_keys(path, key_set("from-file"))
    environ = {SECRET_VARIABLE: new_secret(), KEYRING_VARIABLE: str(path)}
    assert load_keyring(environ, None).active == "from-file"
    assert load_keyring({SECRET_VARIABLE: environ[SECRET_VARIABLE]}, path).active == "from-file"
    assert load_keyring({SECRET_VARIABLE: environ[SECRET_VARIABLE]}, None).active == "k1"


def test_white_space_around_a_secret_is_no_part_of_it_wherever_it_comes_from(tmp_path: Path) -> None:
    secret, padded, keyring = new_secret(), tmp_path / "secret", tmp_path / "keyring"
    padded.write_text(f" {secret}\n")
    keyring.write_text(json.dumps({"active": "k1", "keys": [{"key_id": "k1", "secret": f"{secret}\r\n"}]}))
    keyring.chmod(0o600)
    wanted = Keyring.from_secret(secret).key("k1", NOW)
    assert load_keyring({SECRET_VARIABLE: f"{secret}\n"}, None).key("k1", NOW) == wanted
    assert Keyring.from_secret(read_secret(padded, "--key")).key("k1", NOW) == wanted
    assert Keyring.load(keyring).key("k1", NOW) == wanted


def test_white_space_makes_no_secret_long_enough() -> None:
    with pytest.raises(ConfigError, match="31 bytes are too few"):
        load_keyring({SECRET_VARIABLE: new_secret()[:31] + "\n"}, None)


def test_without_any_secret_nothing_starts() -> None:
    with pytest.raises(ConfigError, match="esper keys new"):
        load_keyring({}, None)


def test_a_secret_is_not_in_the_representation_of_a_key() -> None:
    secret = new_secret()
    assert secret not in repr(Key(key_id="k1", secret=secret))
    assert secret not in repr(KeySet(active="k1", keys=(Key(key_id="k1", secret=secret),)))


@pytest.mark.parametrize("key_id", ["", "a b", "ü", "x" * 65, "a/b"])
def test_a_key_id_has_a_plain_name(key_id: str) -> None:
    with pytest.raises(ConfigError, match="key_id"):
        Key(key_id=key_id, secret=new_secret())


def test_a_damaged_secret_is_told_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(new_secret().encode()[:20] + b"\x90" + new_secret().encode())
    with pytest.raises(
        ConfigError, match=rf"--key = '{path}': is damaged: a secret is a line of text; put back a copy"
    ):
        read_secret(path, "--key")
    with pytest.raises(ConfigError, match=r"ESPER_LEYLINE_SECRET = '\(hidden\)': it is no text"):
        load_keyring({SECRET_VARIABLE: os.fsdecode(path.read_bytes())}, None)
