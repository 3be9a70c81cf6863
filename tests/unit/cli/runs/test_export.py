from __future__ import annotations

from pathlib import Path

import pytest

from esper.cli.main import main
from esper.tolaria.export import Exported


def test_a_directory_without_a_finished_run_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "model.pt2")]) == 1
    error = capsys.readouterr().err
    assert "only a finished run can be exported" in error
    assert error.count("\n") == 1


def test_the_name_of_the_file_says_its_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "model.bin")]) == 78
    assert ".pt2 or .safetensors" in capsys.readouterr().err


def test_what_was_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, Path]] = []

    def export(run_dir: Path, out: Path, weights: str, *, seeds_only: bool) -> Exported:
        assert not seeds_only
        asked.append((run_dir, out))
        return Exported(path=out, what="float32 [rows, 4] -> [rows, 2]", use="torch loads it")

    monkeypatch.setattr("esper.tolaria.export.export", export)
    assert main(["export", str(tmp_path), "model.pt2"]) == 0
    assert asked == [(tmp_path, Path("model.pt2"))]
    assert capsys.readouterr().out == "model.pt2: float32 [rows, 4] -> [rows, 2]; torch loads it\n"
