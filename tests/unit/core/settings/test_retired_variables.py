"""Variables without an effect are refused by the process that would have read them, with what replaces them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.core.settings.config import described, load
from esper.core.settings.retired_variables import RETIRED
from esper.kasmina.server import KasminaConfig
from esper.rpc.settings import read_settings
from esper.tamiyo.config import TamiyoConfig
from esper.tolaria.config import TrainConfig
from esper.weatherlight.config import WeatherlightConfig

SERVICES = {"tamiyo": TamiyoConfig, "kasmina": KasminaConfig, "weatherlight": WeatherlightConfig}
ROWS = [(prefix, name) for prefix, rows in RETIRED.items() for name in rows]


def start(prefix: str, environ: dict[str, str]) -> None:
    """Read the settings as the process with that prefix does."""
    if prefix == "TOLARIA_":
        load(TrainConfig, file=None, environ=environ, prefix=prefix, flags={})
    else:
        name = prefix.split("_")[1].lower()
        read_settings(name, SERVICES[name], [], environ)


@pytest.mark.parametrize(("prefix", "pattern"), ROWS)
def test_each_is_refused_by_the_process_that_would_have_read_it_and_by_no_other(prefix: str, pattern: str) -> None:
    name = pattern.replace("*", "ENABLED")
    with pytest.raises(ConfigError, match=r"has no effect here: ") as refused:
        start(prefix, {name: "1"})
    assert str(refused.value).startswith(f"{name} = '1'")
    for other in RETIRED:
        if other != prefix:
            start(other, {name: "1"})


def settings_of(prefix: str, printed: str) -> set[str]:
    """The variables of what --print-config printed."""
    keys = re.findall(r"^(?:# )?([a-z_.0-9]+) (?:=|is not set)", printed, re.MULTILINE)
    return {prefix + key.replace(".", "__").upper() for key in keys}


def test_what_a_row_says_to_use_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    printed = "\n".join(described(load(TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags={})))
    known = settings_of("TOLARIA_", printed)
    for name, config in SERVICES.items():
        with pytest.raises(SystemExit):
            read_settings(name, config, ["--print-config"], {})
        known |= settings_of(f"ESPER_{name.upper()}_", capsys.readouterr().out)
    texts = " ".join(text for rows in RETIRED.values() for text in rows.values())
    assert set(re.findall(r"\b(?:TOLARIA|ESPER)_\w+", texts)) <= known


@pytest.mark.parametrize("name", ["KASMINA_PORT", "TAMIYO_SERVICE_HOST", "TAMIYO_PORT_7701_TCP", "REDIS_URL"])
def test_what_an_orchestrator_injects_harms_nobody(name: str) -> None:
    for prefix in RETIRED:
        start(prefix, {name: "tcp://10.0.0.1:7701"})


def test_a_setting_whose_name_begins_like_a_retired_one_is_read() -> None:
    start("TOLARIA_", {"TOLARIA_ROLLBACK_LR_FACTOR": "0.25", "TOLARIA_SEED": "3", "TOLARIA_LR": "0.1"})


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        start("ESPER_KASMINA_", {"URZA_DATABASE_URL": "postgres://me:secret@db/urza"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("module", "variable"),
    [("esper.tamiyo.server", "TAMIYO_STRICT_COMMAND_IDS"), ("esper.kasmina.server", "KASMINA_DYNAMIC_SEEDS")],
)
def test_the_process_ends_with_78_and_one_line(module: str, variable: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "--state-dir", str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, variable: "0"}, capture_output=True, text=True, check=False)
    assert ended.returncode == 78
    (line,) = ended.stderr.splitlines()
    assert f"{variable} = '0': has no effect here: " in line
