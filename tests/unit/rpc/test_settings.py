"""Settings of a service process: flags, file, environment, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.rpc.settings import EXIT_USAGE, ProcessConfig, read_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Own:
    """The service's table."""

    patience_s: float = 1.5


def read(*argv: str, environ: dict[str, str] | None = None) -> tuple[ProcessConfig, Own]:
    return read_settings("kasmina", Own, argv, environ or {})


def test_without_anything_a_service_listens_on_its_own_loopback_port() -> None:
    process, own = read()
    assert process.server.listen == "127.0.0.1:7702"
    assert own.patience_s == 1.5


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "kasmina.toml"
    file.write_text('state_dir = "/file"\n[server]\nlisten = "unix:/file"\ngrace_s = 3\n[kasmina]\npatience_s = 2\n')
    environ = {"ESPER_KASMINA_STATE_DIR": "/environment", "ESPER_KASMINA_SERVER__LISTEN": "unix:/environment"}
    process, own = read("--config", str(file), "--listen", "unix:/flag", environ=environ)
    assert (process.server.listen, process.server.grace_s) == ("unix:/flag", 3.0)
    assert (process.state_dir, own.patience_s) == (Path("/environment"), 2.0)


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "kasmina.toml"
    file.write_text("[kasmina]\npatience = 2\n")
    with pytest.raises(ConfigError, match=r"kasmina\.patience_s"):
        read("--config", str(file))


def test_an_unknown_flag_names_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--listn", "unix:/x")
    assert caught.value.code == EXIT_USAGE
    assert "did you mean --listen?" in capsys.readouterr().err


def test_the_settings_can_be_shown_with_their_origins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--print-config", "--log-level", "debug", environ={"ESPER_KASMINA_KASMINA__PATIENCE_S": "4"})
    assert caught.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert 'log_level = "debug"  # flag' in shown
    assert "kasmina.patience_s = 4.0  # environment" in shown
    assert "server.grace_s = 10.0  # default" in shown
