from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.cli import main as cli
from esper.cli.main import EXIT_CODES, main, parser
from esper.core.errors import (
    AsyncTimeoutError,
    BackPressure,
    ConfigError,
    EsperError,
    ForbiddenStorage,
    ServiceUnavailable,
)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    def run(arguments: object) -> int:
        raise error

    monkeypatch.setattr(cli.doctor, "run", run)
    return main(["doctor"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("key", "value", "do this"), 78),
        (ServiceUnavailable("esper", "service", "kasmina", "start it"), 75),
        (AsyncTimeoutError("call", 1.0), 75),
        (BackPressure("full", 1.0), 75),
        (ForbiddenStorage("a file can't be used"), 77),
        (EsperError("anything else"), 1),
    ],
)
def test_an_error_is_one_line_with_its_documented_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert failing(monkeypatch, error) == code
    printed = capsys.readouterr()
    assert printed.err == f"esper: {error}\n"
    assert printed.out == ""


@pytest.mark.parametrize(
    "verb",
    [
        ["status", "RUN_DIR"],
        ["export", "RUN_DIR", "model.pt2"],
        ["seed", "cull", "RUN_DIR", "s1"],
        ["emergency", "list", "RUN_DIR"],
        ["audit", "verify", "RUN_DIR"],
        ["audit", "host", "RUN_DIR"],
        ["bus", "tail", "RUN_DIR"],
        ["bus", "dlq", "list", "RUN_DIR"],
        ["call", "kasmina.ListSeeds", "--run-dir", "RUN_DIR"],
    ],
    ids=" ".join,
)
def test_a_run_directory_that_is_not_there_is_said_to_be_missing(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mistyped = str(tmp_path / "rnus")
    assert main([mistyped if word == "RUN_DIR" else word for word in verb]) == 78
    assert capsys.readouterr().err == f"esper: RUN_DIR = '{mistyped}': is not there; give the directory of a run\n"


class OddBatchError(Exception):
    """A user's own."""


@pytest.mark.parametrize("argv", [["doctor"], ["doctor", "--traceback"], ["--traceback", "doctor"]])
def test_an_error_that_nobody_foresaw_is_one_line_with_its_place_and_the_traceback_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    def run(arguments: object) -> int:
        raise OddBatchError("3 rows\nmore")

    monkeypatch.setattr(cli.doctor, "run", run)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"esper: unexpected OddBatchError: 3 rows ({__file__}:")
    assert error.splitlines()[-1].endswith(", in run; --traceback shows more)")
    assert ("Traceback" in error) == ("--traceback" in argv) == (error.count("\n") > 1)


def test_the_last_exit_code_catches_the_whole_tree() -> None:
    assert EXIT_CODES[-1] == (EsperError, 1)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ([], "COMMAND"),
        (["statu", "x"], "did you mean 'status'?"),
        (["keys", "rotat"], "did you mean 'rotate'?"),
        (["keys"], "VERB"),
        (["doctor", "--jsn"], "did you mean '--json'?"),
        (["doctor", "--j"], "unknown argument '--j'"),
        (["wal", "inspect", "a", "b"], "unknown argument 'b'"),
        (["zzzz"], "see esper --help"),
    ],
)
def test_wrong_usage_names_the_nearest_known_word(
    capsys: pytest.CaptureFixture[str], argv: list[str], hint: str
) -> None:
    assert main(argv) == 64
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["sign", "--help"], ["keys", "new", "--help"]])
def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    assert "esper" in capsys.readouterr().out


def test_the_command_starts_without_torch_and_without_grpc() -> None:
    check = "import sys, esper.cli.main; sys.exit(bool({'torch', 'grpc', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_told_nothing_and_a_full_disk_is_one_line(unbuffered: str, tmp_path: Path) -> None:
    summary = {"run_id": "run-1", "commands": {"issued": 0, "accepted": 0}, "seeds": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary))

    def ends(redirection: str) -> tuple[str, str]:
        script = f'set -o pipefail; "$0" -m esper.cli.main status "$1" {redirection}; echo "code $?" >&2'
        command = ["bash", "-c", script, sys.executable, str(tmp_path)]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        *lines, code = done.stderr.splitlines()
        return code, "; ".join(lines)

    assert ends("| true") == ("code 1", "")
    code, line = ends(">/dev/full")
    assert (code, line.count("; ")) == ("code 1", 0)
    assert "No space left on device" in line
    assert ends(">&-")[1] == ""


def test_a_ctrl_c_is_quiet_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("esper.cli.checks.doctor.run", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ""


def test_every_argument_of_every_command_is_explained() -> None:
    assert [f"{program} {argument}" for program, argument, told in arguments(parser()) if not told] == []


def arguments(command: argparse.ArgumentParser) -> Iterator[tuple[str, str, str | None]]:
    """Program, argument and help of everything that a command and those below it take."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from arguments(below)
        else:
            yield command.prog, action.dest, action.help
