"""`esper ui`: every number as JSON, a page that can be opened, and clear refusals."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from unittest.mock import patch

import pytest

from esper.cli.main import main
from tests.unit.ui.test_following import START, boundary


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "walk"
    path.mkdir()
    (path / "events.jsonl").write_bytes(START + boundary(10))
    return path


def test_every_number_of_the_page_is_printed_as_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--json", str(run_dir)]) == 0
    shown = json.loads(capsys.readouterr().out)["walk"]
    assert shown["progress"]["step"] == 10
    assert shown["state"]["word"] == "killed"
    assert shown["live"]["damaged_lines"] == 0
    assert {"loss", "network", "growth", "looks", "cost", "step_time", "commands", "mode", "incidents"} <= set(shown)


def test_a_run_whose_events_make_no_sense_hides_none_of_the_others(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run_dir.parent / "other"
    other.mkdir()
    (other / "events.jsonl").write_bytes(b'{"kind": "boundary"}\n')
    assert main(["ui", "--json", str(run_dir.parent)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["walk"]["progress"]["step"] == 10
    assert shown["other"]["live"]["damaged_lines"] == 1
    with patch("esper.ui.following.view", side_effect=[KeyError("loss"), {"progress": {}}]):
        assert main(["ui", "--json", str(run_dir.parent)]) == 1
    told = capsys.readouterr()
    shown = json.loads(told.out)
    assert sorted("error" in each for each in shown.values()) == [False, True]
    assert "can't be shown: " in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["nowhere"], 78, "is no directory"),
        (["--listen", "0.0.0.0:0", "."], 78, "loopback alone"),
        (["--listen", "nonsense", "."], 78, "HOST:PORT"),
        (["--jaeger", "javascript:alert(1)", "."], 64, "http://"),
        (["--url-file", "nowhere/url", "."], 78, "--url-file = 'nowhere/url': can't be written: No such file"),
        (["--colour", "."], 64, "unknown argument"),
        (["--json", "--open", "--url-file", "f", "."], 64, "--json prints and stops: leave --open and --url-file out"),
        (["--json", "--key", "secret", "."], 64, "leave --key out, or --json"),
    ],
)
def test_what_can_not_be_done_is_one_line(
    flags: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ui", *flags]) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_the_page_is_served_until_it_is_interrupted(run_dir: Path, tmp_path: Path) -> None:
    url_file = tmp_path / "url"
    command = [sys.executable, "-m", "esper.cli.main", "ui", str(run_dir), "--url-file", str(url_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            url = url_file.read_text().strip()
            assert url in told
            assert stat.S_IMODE(url_file.stat().st_mode) == 0o600
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert answer.status == 200
            view = url.replace("/?", "/api/view?run=walk&")
            with urllib.request.urlopen(view, timeout=20) as answer:
                assert json.load(answer)["view"]["progress"]["step"] == 10
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 128 + signal.SIGINT
        finally:
            process.kill()


def test_the_page_needs_neither_torch_nor_grpc_to_start(run_dir: Path) -> None:
    code = (
        "import sys; from esper.cli.main import main; main(['ui', '--json', sys.argv[1]]);"
        "sys.exit([name for name in ('torch', 'grpc', 'matplotlib', 'rich') if name in sys.modules] != [])"
    )
    subprocess.run([sys.executable, "-c", code, str(run_dir)], check=True, stdout=subprocess.DEVNULL, env=os.environ)
