"""`esper seed` before anything is sent: what is missing is named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.security.keys import new_secret
from esper.core.security.run_line import Peer, RunLine, write_line
from esper.core.storage.file_lock import try_hold

PAUSE = ["pause", "RUN", "s1", "--why", "a look"]
VERBS = [
    PAUSE,
    ["resume", "RUN", "s1", "--why", "go"],
    ["blend", "RUN", "s1", "--mode", "convex", "--steps", "9"],
    ["advance", "RUN", "s1", "--to", "shadowing"],
    ["cull", "RUN", "s1"],
    ["prune", "RUN", "s1", "--why", "too dear"],
    ["clear", "RUN", "--why", "anew"],
    ["forget-teacher", "RUN", "--why", "anew"],
]


def seed(verb: list[str], run_dir: Path) -> int:
    return main(["seed", *(str(run_dir) if word == "RUN" else word for word in verb)])


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run that isn't under way."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "generation").write_text("1\n")
    event = {"kind": "run", "name": "generation 1", "run_id": "r", "seed": 1, "step": 0, "total_steps": 9}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    return tmp_path


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_directory_that_is_no_runs_is_named(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seed(verb, tmp_path) == 78
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_run_that_isnt_under_way_is_told(verb: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seed(verb, run_dir) == 78
    assert "has no run under way" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_run_that_was_killed_is_told_in_plain_words(
    verb: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "secret").write_text(new_secret())
    (run_dir / "secret").chmod(0o600)
    peer = Peer(endpoint=f"unix:{run_dir}/gone.sock")
    write_line(run_dir, RunLine(run_id="r", peers={"kasmina": peer}))
    told = f"esper: esper: run under way in '{run_dir}' is missing; it was killed"
    assert seed(verb, run_dir) == 75
    assert capsys.readouterr().err.startswith(told)
    with try_hold(run_dir / "run.lock"):  # it is there, and starts its Kasmina again
        assert seed(verb, run_dir) == 75
    assert "nobody listens there (No such file or directory); see that it runs" in capsys.readouterr().err


def test_a_blend_that_makes_no_sense_is_told_before_it_is_sent(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blend = ["blend", "RUN", "s1", "--mode", "channel", "--steps", "9"]
    assert seed([*blend, "--channels", "1,x"], run_dir) == 64
    assert seed([*blend, "--channels", "1,2"], run_dir) == 1
    assert "alpha_vec is 2, expected 0 to 1" in capsys.readouterr().err


def test_a_pause_says_why(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seed(PAUSE[:3], run_dir) == 64
    assert main(["seed", "pause", str(run_dir), "s1", "--why", " "]) == 64
    assert "argument --why: it is empty" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["-4", "99999999999999999999", "1.5", "many"])
def test_a_course_of_no_steps_is_wrong_usage(run_dir: Path, capsys: pytest.CaptureFixture[str], steps: str) -> None:
    assert seed(["blend", "RUN", "s1", "--mode", "convex", "--steps", steps], run_dir) == 64
    assert f"--steps: '{steps}' is no whole number from 0" in capsys.readouterr().err
