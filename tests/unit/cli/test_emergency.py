from __future__ import annotations

from pathlib import Path

import pytest

from esper.cli.main import main


@pytest.mark.parametrize("verb", [["list"], ["acknowledge"], ["raise", "--level", "L1", "--why", "a drill"]])
def test_a_directory_that_is_no_runs_is_named_before_any_key_is_asked_for(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(variable, raising=False)
    mistyped = tmp_path / "rnus"
    assert main(["emergency", *verb, str(mistyped)]) == 78
    assert capsys.readouterr().err == f"esper: RUN_DIR = '{mistyped}': is no run's directory\n"
    assert main(["emergency", *verb, str(tmp_path)]) == 78
    assert "has no Weatherlight of its own and isn't under way: give --weatherlight" in capsys.readouterr().err


def test_an_emergency_without_a_cause_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emergency", "raise", "--level", "L1", "--why", "", str(tmp_path)]) == 64
    assert "argument --why: it is empty; say in a few words why" in capsys.readouterr().err
