"""`esper simic` and `esper reports`: what can't be done is one line, and what was learned is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK
from esper.simic.replay import ReplayStore
from tests.unit.simic.making import reports

NOWHERE = "unix:/nonexistent/bus"


def store(path: Path, count: int) -> Path:
    kept = ReplayStore(path / "replay.db", SYSTEM_CLOCK)
    for each in reports(count):
        kept.put(each, event_id=each.report_id)
    kept.close()
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["simic", "train", "{}", "--version", "1.1.0"], 78, "esper simic collect makes one"),
        (["simic", "evaluate", "{}"], 78, "weights.safetensors isn't there"),
        (["simic", "publish", "{}", "--weatherlight", NOWHERE], 78, "weights.safetensors isn't there"),
        (["reports", "export", "{}", "out.jsonl"], 78, "esper simic collect makes one"),
        (["simic", "collect", "{}"], 64, "--weatherlight ENDPOINT is needed"),
        (["simic", "collect", "{}", "--idle-s", "0"], 64, "must be above 0"),
        (["simic", "train", "{}", "--version", "newest"], 64, "dotted whole numbers"),
        (["simic", "train", "{}", "--version", "1.1.0", "--price", "nan"], 64, "no finite number"),
        (["simic", "train", "{}", "--version", "1.1.0", "--policy", "oracle"], 64, "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    place = str(tmp_path / "store")
    assert main([word.format(place) for word in words]) == code
    line = said(capsys)
    assert told in line
    assert line.startswith("esper: ")
    assert not Path(place).exists(), "nothing is made by a request that can't be met"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simic", "evaluate", "{0}", "--weights", "{0}/replay.db"], "replay.db': can't be used: a header"),
        (["simic", "evaluate", "{0}", "--weights", "{0}/none"], "none': can't be used: No such file"),
        (["simic", "evaluate", "{0}", "--weights", "{0}"], "can't be used: Is a directory; name what esper"),
        (["reports", "export", "{0}", "{0}/none/out.jsonl"], "out.jsonl': there is no directory {0}/none; make"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    place = store(tmp_path, 2)
    assert main([word.format(place) for word in words]) == 78
    (line,) = said(capsys).splitlines()
    assert told.format(place) in line


def test_a_tiny_store_gives_no_weights_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = store(tmp_path / "store", 9)
    assert main(["simic", "train", str(place), "--version", "1.1.0"]) == 1
    assert "FAIL decisions: 9, at least 40" in said(capsys)
    assert not (place / "weights.safetensors").exists()


def test_weights_are_trained_valued_and_published_only_with_the_word_of_their_own_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = store(tmp_path / "store", 150)
    assert main(["simic", "train", str(place), "--version", "1.1.0"]) == 0
    assert "passed" in said(capsys)
    assert main(["simic", "evaluate", str(place), "--json"]) == 0
    told = json.loads(said(capsys))
    assert told["values"]["learned"]["value"] > told["values"]["at random"]["value"]
    assert told["values"]["learned - shuffled"]["value"] > 2 * told["values"]["learned - shuffled"]["error"]
    assert len(told["calibration"]) == 5
    assert told["asked"] == "each run by weights fitted without it"
    other = store(tmp_path / "other", 30)
    assert main(["simic", "evaluate", str(other), "--weights", str(place / "weights.safetensors")]) == 0
    words = said(capsys)
    assert re.search(r"predicted gain [+-]\d\.\d{3}: measured [+-]\d\.\d{3} ± \d\.\d{3} \(6 decisions\)", words)
    assert "the weights as they are, fitted to other reports" in words
    assert "shuffled" not in words, "shuffles of these reports are no control of weights that others taught"

    validation = json.loads((place / "validation.json").read_text())
    publish = ["simic", "publish", str(place), "--weatherlight", NOWHERE]
    for change, words in (
        ({"digest": "0" * 64}, "train again"),
        ({"passed": False, "checks": [{"name": "runs", "holds": False}]}, "the gate refused these weights: runs"),
    ):
        (place / "validation.json").write_text(json.dumps({**validation, **change}))
        assert main(publish) == 78
        assert words in said(capsys)
    (place / "validation.json").write_text("[")
    assert main(publish) == 78
    assert "damaged" in said(capsys)
