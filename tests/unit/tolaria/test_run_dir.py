"""A run's directory: claimed for one run, refused where it can't be, cleared of its own files alone."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from esper.core.errors import ConfigError
from esper.tolaria.record.observer import RunStarted
from esper.tolaria.run_dir import RunOptions, SummaryFile, check_free, claim, discard, occupied


def test_overwriting_removes_what_a_run_left_and_nothing_else(tmp_path: Path) -> None:
    own = ("events.jsonl", "summary.json", "report.html", "secret", "services/tamiyo.db", "checkpoints/a/b.ckpt")
    for name in (*own, "tensorboard/events.out", "notes.txt", "mine/data.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    discard(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "mine",
        "mine/data.pt",
        "notes.txt",
    ]


def test_a_run_that_is_there_is_neither_mixed_nor_lost_by_accident(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "run"}\n')
    with pytest.raises(ConfigError, match="holds a run already"):
        claim(tmp_path, RunOptions())
    assert (tmp_path / "events.jsonl").read_text() == '{"kind": "run"}\n'
    claim(tmp_path, RunOptions(overwrite=True))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="there is no run to go on with"):
        claim(tmp_path, RunOptions(resume=True))


def test_a_run_that_goes_on_begins_with_a_whole_line(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "run"}\n{"ki')
    claim(tmp_path, RunOptions(resume=True))
    assert (tmp_path / "events.jsonl").read_text() == '{"kind": "run"}\n'


def test_a_directory_that_cant_be_written_to_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"can't be made: .*file is no directory"):
        check_free(tmp_path / "file" / "run", RunOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_read_only_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=f"{tmp_path} can't be written to"):
        check_free(tmp_path / "deep" / "run", RunOptions())


def test_a_directory_is_one_process_s_at_a_time_and_the_holder_is_named(tmp_path: Path) -> None:
    with occupied(tmp_path / "run"):
        with (
            pytest.raises(ConfigError, match=rf"is in use by another process \(pid {os.getpid()} on .*since"),
            occupied(tmp_path / "run"),
        ):
            pass
        (tmp_path / "run" / "events.jsonl").write_text("x")
    with occupied(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["events.jsonl"]


def test_who_lost_the_directory_to_another_run_leaves_that_one_its_hold(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with ExitStack() as first:
        first.enter_context(occupied(run_dir))
        shutil.rmtree(run_dir)
        with occupied(run_dir):
            first.close()
            with pytest.raises(ConfigError, match="is in use by another process"), occupied(run_dir):
                pass


def test_a_lock_that_cant_be_removed_hides_no_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ConfigError, match="lr"), occupied(tmp_path / "run"):
        raise ConfigError("lr", 0, "must be positive")


def test_a_run_that_comes_to_nothing_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lr"), occupied(tmp_path / "deep" / "run"):
        raise ConfigError("lr", 0, "must be positive")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cant_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be made: Not a directory"), occupied(tmp_path / "file" / "run"):
        pass


def test_a_directory_that_cant_be_held_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(ConfigError, match="can't be held by one process: Is a directory"), occupied(tmp_path):
        pass


def test_what_tells_of_an_interruption_goes_once_the_run_goes_on(tmp_path: Path) -> None:
    told = [tmp_path / "summary.json", tmp_path / "report.html"]
    for path in told:
        path.write_text("stopped")
    SummaryFile(tmp_path).on_start(cast(RunStarted, None))
    assert not any(path.exists() for path in told)
