"""`esper harness`: flags that act, bounds that are told, and an installation without the source tree."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

import esper
from esper.cli.checks import harness
from esper.cli.main import main


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.Namespace:
    """What the harness would be given."""
    given: list[argparse.Namespace] = []
    monkeypatch.setattr("tools.harness.command.run", lambda options: given.append(options) or 0)
    assert main(["harness", *words]) == 0
    return given[0]


def test_all_names_every_scenario_and_has_every_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    options = parsed(monkeypatch, "all", "--requests", "5", "--timeout-every", "3", "--sizes", "1x64,2x128")
    assert options.scenarios == tuple(harness.SCENARIOS)
    assert (options.requests, options.timeout_every, options.sizes) == (5, 3, ((1, 64), (2, 128)))
    assert options.epochs >= harness.FEWEST_EPOCHS


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("steady-train", "--epochs", "29"), "at least 30, got 29"),
        (("soak", "--epochs", "99"), "at least 100, got 99"),
        (("tamiyo-timeout", "--timeout-every", "1"), "at least 2, got 1"),
        (("kasmina-prefetch", "--concurrency", "0"), "between 1 and 64, got 0"),
        (("kasmina-prefetch", "--ready-latency-ms", "nan"), "got nan"),
        (("rollback", "--deadline-ms", "soon"), "invalid number value: 'soon'"),
        (("rollback", "--sizes", "2x65"), "as 2x64,12x768, got 2x65"),
        (("rollback", "--sizes", "2,64"), "got 2,64"),
        (("kasmina-prefetch", "--device", "cuda"), "unknown argument '--device'"),
        (("steady-train", "--requests", "5"), "unknown argument '--requests'"),
        (("steady-trian",), "did you mean 'steady-train'?"),
    ],
)
def test_what_makes_no_sense_or_would_not_act_is_told_in_one_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["harness", *words]) == os.EX_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_an_installation_without_the_source_tree_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(esper, "__file__", str(tmp_path / "esper" / "__init__.py"))
    assert main(["harness", "steady-train"]) == os.EX_CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert "clone Esper" in line


def test_a_device_that_is_not_there_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["harness", "all", "--device", "tpu", "--output-dir", str(tmp_path / "out")]) == os.EX_CONFIG
    assert "cpu, cuda or cuda:INDEX" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_results_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.touch()
    for given, why in ((path, "is a file, no folder"), (path / "under", "can't be made: Not a directory")):
        assert main(["harness", "kasmina-prefetch", "--output-dir", str(given)]) == 78
        assert capsys.readouterr().err == f"esper: --output-dir = '{given}': {why}; name another folder\n"
