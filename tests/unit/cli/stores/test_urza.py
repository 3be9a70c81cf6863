"""`esper urza`: what is shown is what is there; what can't be used is one line and a documented code."""

import json
import os
import shlex
from pathlib import Path

import pytest

from esper.cli.main import main
from tests.unit.urza.own.making import DESCRIPTION, SOURCE, written


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ESPER_KEYRING", "ESPER_LEYLINE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "library"


def urza(library: Path, *arguments: str) -> int:
    return main(["urza", *arguments, "--library", str(library)])


def told(library: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    capsys.readouterr()
    assert urza(library, *arguments, "--json") in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_a_blueprint_is_added_listed_shown_verified_and_retired(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert urza(library, "add", str(written(tmp_path))) == 0
    assert "lab.gated version 1 added" in capsys.readouterr().out
    assert urza(library, "add", str(written(tmp_path))) == 0
    assert "was there already" in capsys.readouterr().out
    rows = told(library, capsys, "list")
    assert [(row["blueprint_id"], row["is_builtin"]) for row in rows][:2] == [
        ("lab.gated", False),
        ("span.linear", True),
    ]
    shown = told(library, capsys, "show", "lab.gated")
    assert shown["cost"]["parameters"] == ["3 features width", "2 features"]
    assert (shown["hazard"], shown["factory"], shown["runs"]) == ("medium", "gated.py:build", [])
    assert told(library, capsys, "show", "span.linear")["slots"] == ["span.linear"]
    assert told(library, capsys, "verify")[0]["problem"] is None
    assert urza(library, "gc", "--retire", "lab.gated", "--dry-run") == 0
    assert "would remove 0 files" in capsys.readouterr().out
    assert urza(library, "gc", "--retire", "lab.gated") == 0
    assert "removed lab.gated version 1" in capsys.readouterr().out
    assert told(library, capsys, "list")[0]["blueprint_id"] == "span.linear"


def test_adding_tells_how_to_grow_with_it_from_the_library_that_was_named(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urza(library, "add", str(written(tmp_path)))
    (hint,) = [line for line in capsys.readouterr().out.splitlines() if "tolaria-train" in line]
    assert shlex.split(hint)[-4:] == ["--blueprints", "lab.gated", "--library", str(library)]


def test_what_people_read_has_a_line_for_each(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library.mkdir()
    assert urza(library, "verify") == 0
    assert "no blueprint of your own" in capsys.readouterr().out
    urza(library, "add", str(written(tmp_path)))
    for verb in (["list"], ["show", "lab.gated"], ["verify"], ["gc"]):
        assert urza(library, *verb) == 0
    shown = capsys.readouterr().out
    for words in ("version 1", "width: 8, 1 to 1024: hidden features", "signature and files hold", "removed 0 files"):
        assert words in shown


def test_damage_is_found_and_named_and_adding_again_mends_it(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urza(library, "add", str(written(tmp_path)))
    source = next(path for path in (library / "artifacts").iterdir() if b"class Gated" in path.read_bytes())
    source.write_bytes(b"changed")
    assert urza(library, "verify", "lab.gated") == 1
    assert str(source) in capsys.readouterr().out
    assert urza(library, "show", "lab.gated") == 1
    assert str(source) in capsys.readouterr().err
    assert urza(library, "add", str(written(tmp_path))) == 0
    assert urza(library, "verify") == 0


def test_a_revoked_key_is_found_and_adding_signs_anew(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", "correct horse battery staple 0123456789 abcdef")
    urza(library, "add", str(written(tmp_path)))
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", "another battery staple 0123456789 abcdefgh ij")
    assert urza(library, "verify") == 1
    assert "the secret is another" in capsys.readouterr().out
    assert urza(library, "add", str(written(tmp_path))) == 0
    assert urza(library, "verify") == 0
    assert told(library, capsys, "list")[0]["version"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "lab.none"], 1, "there is none yet"),
        (["show", "span.cubic"], 1, "span.linear"),
        (["verify", "lab.none"], 1, "lab.none"),
        (["gc", "--retire", "lab.none"], 1, "lab.none"),
        (["add", "nowhere.toml"], os.EX_CONFIG, "can't be read"),
        (["ad", "x"], os.EX_USAGE, "add"),
    ],
)
def test_what_is_not_there_is_one_line(
    library: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    library.mkdir()
    assert urza(library, *arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not list(library.iterdir())


@pytest.mark.parametrize("arguments", [["list"], ["show", "lab.gated"], ["verify"], ["gc"]])
def test_a_named_library_that_is_not_there_is_told(
    library: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    mistyped = library.parent / "typo"
    assert main(["urza", *arguments, "--library", str(mistyped)]) == os.EX_CONFIG
    assert capsys.readouterr().err == f"esper: --library = '{mistyped}': is not there; `esper urza add` makes one\n"
    assert not mistyped.exists()


def test_a_factory_that_is_not_as_described_is_not_added(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = written(tmp_path, description=DESCRIPTION.replace("3 features width", "features width", 1))
    assert urza(library, "add", str(wrong)) == os.EX_CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("esper: cost.parameters")
    raising = written(tmp_path, source=SOURCE.replace("return Gated", "raise Gated"))
    assert urza(library, "add", str(raising)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "gated.py" in line
    assert not library.exists()


@pytest.mark.parametrize(
    ("place", "code"), [("library", os.EX_CONFIG), ("library/artifacts", 1), ("library/catalog.db", os.EX_IOERR)]
)
def test_what_stands_in_a_librarys_place_is_named(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, code: int
) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if place.endswith(".db") else path.write_text("")
    assert urza(library, "add", str(written(tmp_path / "made"))) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "Errno" not in line
    if not place.endswith("artifacts"):
        assert urza(library, "list") == code
    assert path.exists()


def test_what_a_description_says_does_not_act_on_the_terminal(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = DESCRIPTION.replace("Gated bottleneck", r"Gated\u001b[2J\nbottleneck", 1)
    assert urza(library, "add", str(written(tmp_path, description=odd))) == 0
    for verb in (["list"], ["show", "lab.gated"]):
        assert urza(library, *verb) == 0
        assert r"Gated\x1b[2J\nbottleneck" in capsys.readouterr().out
