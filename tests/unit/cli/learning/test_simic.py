"""`esper simic` and `esper reports`: what can't be done is one line, and what was learned is told."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esper.cli.learning.simic import _collected
from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK
from esper.simic.bounds import Bounds
from esper.simic.replay import ReplayStore
from tests.unit.simic.making import SECRET, reports

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
        (["simic", "evaluate", "{}"], 78, "there is no such directory; name a replay store"),
        (["simic", "publish", "{}", "--weatherlight", NOWHERE], 78, "there is no such directory; name a replay store"),
        (["reports", "export", "{}", "out.jsonl"], 78, "esper simic collect makes one"),
        (["simic", "collect", "{}"], 64, "--weatherlight ENDPOINT is needed"),
        (["simic", "collect", "{}", "--idle-s", "0"], 64, "must be above 0"),
        (["simic", "collect", "{}", "--max-reports", "1e3"], 64, "'1e3' is no whole number above 0"),
        (["simic", "collect", "{}", "--max-reports", "39"], 78, "max_reports = 39: give at least 400"),
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


def test_a_store_that_lacks_a_file_names_it_and_what_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, lacks in (
        (["simic", "evaluate"], "weights.safetensors isn't there; esper simic train writes it where there is enough"),
        (["simic", "publish"], "weights.safetensors isn't there; esper simic train writes it where there is enough"),
        (["reports", "export", "out.jsonl"], "replay.db isn't there; esper simic collect makes one"),
    ):
        assert main([*words[:2], str(tmp_path), *words[2:]]) == 78
        assert said(capsys) == f"esper: STORE = '{tmp_path}': {lacks}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["simic", "collect", "{}", "--weatherlight", NOWHERE],
        ["simic", "train", "{}", "--version", "1.1.0"],
        ["simic", "evaluate", "{}"],
        ["simic", "publish", "{}", "--weatherlight", NOWHERE],
        ["reports", "export", "{}", "out.jsonl"],
    ],
)
def test_a_store_that_is_a_file_is_refused_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    place = tmp_path / "store"
    place.write_text("no folder")
    assert main([word.format(place) for word in words]) == 78
    (line,) = said(capsys).splitlines()
    assert line == f"esper: STORE = '{place}': is a file, no folder; name the directory of a replay store"


def test_what_gave_way_is_told_with_the_settings_that_bound_the_store(tmp_path: Path) -> None:
    kept = ReplayStore(tmp_path / "replay.db", SYSTEM_CLOCK, Bounds(max_reports=400))
    for each in reports(402):
        kept.put(each, event_id=each.report_id)
    assert list(_collected(kept)) == [
        "402 reports taken, 0 known, 0 refused; 360 in the store",
        "dropped 42 reports of 14 runs, those that ended first:"
        " the store holds 400 reports and 1,024 MiB at most (--max-reports, --max-mib)",
    ]
    kept.close()


def test_a_bus_that_is_away_is_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    place = store(tmp_path / "store", 150)
    assert main(["simic", "train", str(place), "--version", "1.1.0"]) == 0
    said(capsys)
    for verb in ("collect", "publish"):
        assert main(["simic", verb, str(place), "--weatherlight", NOWHERE]) == 75
        (line,) = said(capsys).splitlines()
        assert "nobody listens there" in line
    assert not caplog.records, "nothing beside it"


def test_weights_that_cannot_be_used_are_published_by_nobody_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"no weights"
    place = store(tmp_path, 2)
    (place / "weights.safetensors").write_bytes(content)
    told = {"digest": hashlib.sha256(content).hexdigest(), "passed": True, "checks": []}
    (place / "validation.json").write_text(json.dumps(told))
    assert main(["simic", "publish", str(place), "--weatherlight", NOWHERE]) == 78
    (line,) = said(capsys).splitlines()
    assert f"STORE = '{place}/weights.safetensors': can't be used: a header of" in line
    assert line.endswith("; train again")


def test_a_store_that_may_not_be_written_is_exported_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = store(tmp_path / "store", 2)
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.name != "replay.db.lock"}
    (place / "replay.db").chmod(0o400)
    place.chmod(0o500)
    try:
        assert main(["reports", "export", str(place), str(tmp_path / "rows.jsonl")]) == 0
    finally:
        place.chmod(0o700)
    assert said(capsys).startswith("2 reports in ")
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.name != "replay.db.lock"} == before


def test_what_was_learned_last_is_refused_for_what_it_lacked_though_older_weights_lie_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = store(tmp_path, 9)
    assert main(["simic", "train", str(place), "--version", "1.1.0"]) == 1
    (place / "weights.safetensors").write_bytes(b"of an earlier fit")
    said(capsys)
    assert main(["simic", "publish", str(place), "--weatherlight", NOWHERE]) == 78
    (line,) = said(capsys).splitlines()
    assert "the gate refused what was learned last: runs; decisions; explored; collect more runs" in line


def test_a_database_of_another_kind_is_no_store_and_a_damaged_report_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, place = tmp_path / "other", store(tmp_path / "store", 2)
    other.mkdir()
    with closing(sqlite3.connect(other / "replay.db")) as connection, connection:
        connection.execute("CREATE TABLE reports (a)")
    with closing(sqlite3.connect(place / "replay.db")) as connection, connection:
        connection.execute("UPDATE reports SET payload = substr(payload, 1, length(payload) - 3)")
        (name,) = connection.execute("SELECT min(report_id) FROM reports").fetchone()
    (place / "replay.db.seal").unlink()
    for words in (["simic", "train", "{}", "--version", "1.1.0"], ["reports", "export", "{}", f"{tmp_path}/a.jsonl"]):
        for where, told in (
            (other, "is no replay store: table reports has a, expected report_id, run_id"),
            (place, f"is damaged: report {name} can't be read; put back a copy"),
        ):
            assert main([word.format(where) for word in words]) == 1
            (line,) = said(capsys).splitlines()
            assert line.startswith(f"esper: {where}/replay.db {told}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simic", "evaluate", "{0}", "--weights", "{0}/replay.db"], "replay.db': can't be used: a header"),
        (["simic", "evaluate", "{0}", "--weights", "{0}/none"], "none': can't be used: No such file"),
        (["simic", "evaluate", "{0}", "--weights", "{0}"], "can't be used: Is a directory; name what esper"),
        (["reports", "export", "{0}", "{0}/none/out.jsonl"], "out.jsonl': there is no directory {0}/none; make"),
        (["reports", "export", "{0}", "{0}/folder.jsonl"], "folder.jsonl': is a folder; name a file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    place = store(tmp_path, 2)
    (place / "folder.jsonl").mkdir()
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
        (
            {"passed": False, "checks": [{"name": "runs", "holds": False}]},
            "the gate refused what was learned last: runs; collect",
        ),
    ):
        (place / "validation.json").write_text(json.dumps({**validation, **change}))
        assert main(publish) == 78
        assert words in said(capsys)
    (place / "validation.json").write_text("[")
    assert main(publish) == 78
    assert "damaged" in said(capsys)


def test_weights_of_shuffled_outcomes_are_valued_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = store(tmp_path, 300)
    found = {}
    for arm, words in (("learned", []), ("shuffled", ["--shuffled", "3"])):
        main(["simic", "train", str(place), "--version", "1.1.0", *words])
        said(capsys)
        assert main(["simic", "evaluate", str(place), "--json"]) == 0
        found[arm] = json.loads(said(capsys))
    assert found["shuffled"]["asked"] == "each run by weights fitted without it to shuffled outcomes"
    learned, misled = (found[arm]["values"] for arm in found)
    assert misled["learned"]["value"] < learned["learned"]["value"] - 2 * learned["learned"]["error"]
    assert misled["as logged"] == learned["as logged"], "outcomes are worth what they are worth"
