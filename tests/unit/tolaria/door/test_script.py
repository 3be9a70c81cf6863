"""`tolaria-train --train`: a script's function under the launcher's settings, display and exit codes."""

from __future__ import annotations

import json
import re

import pytest

from esper.tolaria.launcher import main

SCRIPTS = "tests.unit.tolaria.door.scripts"


def launch(run_dir, name: str, *flags: str) -> int:
    given = ("--grow", "never", "--steps", "12", "--checkpoint-every-epochs", "0", "--plain", *flags)
    return main(["--train", f"{SCRIPTS}:{name}", "--run-dir", str(run_dir), *given])


@pytest.mark.parametrize("name", ["whole", "own"])
def test_a_scripts_run_is_that_of_the_settings(tmp_path, capsys, name):
    assert launch(tmp_path, name) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 12
    assert (tmp_path / "report.html").exists()
    shown = capsys.readouterr().out
    assert "12 steps" in shown
    assert f"summary: {tmp_path / 'summary.json'}" in shown


MISUSES = [
    ("idle", (), "train = .*:idle': made no run in .*call esper.train or esper.Growth"),
    ("absent", (), "train = .*:absent': can't be imported"),
    ("NUMBER", (), "is int, expected a function of a context"),
    ("whole", ("--compare",), "--train --compare"),
    ("own", ("--lr", "1"), "lr = 1.0: is the loop's own to decide"),
    ("whole", ("--model", "cnn"), "model = 'cnn': is given twice"),
]


@pytest.mark.parametrize(("name", "flags", "message"), MISUSES)
def test_misuse_is_told_in_one_line(tmp_path, capsys, name, flags, message):
    code = main(
        ["--train", f"{SCRIPTS}:{name}", "--run-dir", str(tmp_path / "run"), "--plain", "--steps", "12", *flags]
    )
    told = capsys.readouterr().err
    assert code in (64, 78)
    assert told.count("\n") == 1
    assert re.search(message, told)
