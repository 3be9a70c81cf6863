from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring, read_keys
from esper.core.security.tokens import is_service_token


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring"
    assert main(["keys", "new", str(path)]) == 0
    return path


def test_a_new_file_has_one_strong_key_that_signs(keyring: Path) -> None:
    assert Keyring.load(keyring).active == "k1"


def test_a_folder_is_no_keyring_and_nobody_is_told_to_close_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)
    assert main(["keys", "list", str(tmp_path)]) == 78
    assert "can't be read (Is a directory); `esper keys new FILE` makes one" in capsys.readouterr().err


def test_an_existing_file_is_never_replaced(keyring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = keyring.read_bytes()
    assert main(["keys", "new", str(keyring)]) == 78
    assert "esper keys rotate" in capsys.readouterr().err
    assert keyring.read_bytes() == before


def test_without_a_file_a_usable_secret_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new"]) == 0
    Keyring.from_secret(capsys.readouterr().out.strip())


def test_rotation_signs_with_a_new_key_and_goes_on_accepting_the_former(keyring: Path) -> None:
    assert main(["keys", "rotate", str(keyring), "--grace", "10m"]) == 0
    ring, now_ns = Keyring.load(keyring), SYSTEM_CLOCK.now_ns()
    assert ring.active == "k2"
    assert ring.key("k1", now_ns) is not None
    assert ring.key("k1", now_ns + 11 * 60 * 10**9) is None


def test_a_revoked_key_is_refused_from_then_on(keyring: Path) -> None:
    main(["keys", "rotate", str(keyring)])
    assert main(["keys", "revoke", str(keyring), "k1"]) == 0
    assert Keyring.load(keyring).key("k1", SYSTEM_CLOCK.now_ns()) is None


def test_the_active_key_cannot_be_revoked(keyring: Path) -> None:
    assert main(["keys", "revoke", str(keyring), "k1"]) == 78
    assert Keyring.load(keyring).key("k1", SYSTEM_CLOCK.now_ns()) is not None


def test_a_key_that_is_not_there_cannot_be_revoked(keyring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "revoke", str(keyring), "k7"]) == 78
    assert "there are k1" in capsys.readouterr().err


def test_a_list_shows_states_and_never_a_secret(keyring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "rotate", str(keyring), "--key-id", "autumn"])
    main(["keys", "rotate", str(keyring), "--grace", "1h"])
    main(["keys", "revoke", str(keyring), "k1"])
    capsys.readouterr()
    assert main(["keys", "list", str(keyring)]) == 0
    listed = capsys.readouterr().out
    states = {line.split()[0]: line.split()[2] for line in listed.splitlines()}
    assert states == {"k1": "ended", "autumn": "accepted", "k2": "active"}
    assert not any(key.secret in listed for key in read_keys(keyring).keys)


def test_two_keys_never_share_an_id(keyring: Path) -> None:
    assert main(["keys", "rotate", str(keyring), "--key-id", "k1"]) == 78


@pytest.mark.parametrize("grace", ["", "10", "h", "1w", "-1h", "1.5h"])
def test_a_grace_that_is_no_span_of_time_is_wrong_usage(keyring: Path, grace: str) -> None:
    assert main(["keys", "rotate", str(keyring), f"--grace={grace}"]) == 64


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", str(tmp_path / "absent" / "keyring")]) == 78
    assert "can't be written" in capsys.readouterr().err


def test_a_token_is_the_one_that_services_accept(keyring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["keys", "token", "operator", "--key", str(keyring)]) == 0
    assert is_service_token(Keyring.load(keyring), "operator", capsys.readouterr().out.strip())


def test_nobody_gets_a_token_for_a_service_that_does_not_exist(
    keyring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "token", "operatr", "--key", str(keyring)]) == 64
    assert "'operator'" in capsys.readouterr().err


def test_of_many_who_make_one_file_at_once_one_does(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: main(["keys", "new", str(path), "--key-id", f"k{n}"]), range(8)))
    assert sorted(codes) == [0, *[78] * 7]
    assert Keyring.load(path).active == f"k{codes.index(0)}"


def test_of_many_rotations_at_once_none_is_lost(keyring: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: main(["keys", "rotate", str(keyring)]), range(8))) == {0}
    assert [key.key_id for key in read_keys(keyring).keys] == [f"k{number}" for number in range(1, 10)]
