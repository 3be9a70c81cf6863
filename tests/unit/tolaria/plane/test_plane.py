"""What a run was told of its control plane is looked at before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions

SECRET = "test-secret-0123456789-abcdefghijklm"


@pytest.mark.parametrize(
    ("fields", "variables", "words"),
    [
        ({"weatherlight": "x:y:z"}, {"ESPER_LEYLINE_SECRET": SECRET}, "weatherlight = 'x:y:z': use HOST:PORT"),
        ({"tamiyo": "127.0.0.1:1"}, {}, "ESPER_LEYLINE_SECRET = None: set it"),
        ({}, {"ESPER_LEYLINE_SECRET": "weak"}, "4 bytes are too few"),
        ({}, {"ESPER_KEYRING": "/nowhere"}, "keyring = '/nowhere': can't be read"),
    ],
)
def test_a_plane_that_cant_be_reached_as_it_was_told_leaves_no_directory(
    fields: dict[str, str],
    variables: dict[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    config = TrainConfig(run_dir=tmp_path / "run", samples=600, min_samples=50, **fields)
    with pytest.raises(ConfigError, match=words):
        grow(config, RunOptions(tensorboard=False), [], Interruption())
    assert not (tmp_path / "run").exists()
