"""A run loads a blueprint of the user's own only if the whole chain holds; otherwise it says which link doesn't."""

import os
import sys
from pathlib import Path

import pytest

from esper.cli.main import main as esper
from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ConfigError, CorruptRecord, EsperError, UntrustedBlueprint
from esper.tolaria.config import TrainConfig
from esper.tolaria.own_blueprints import FOLDER, NO_OWN, own_blueprints
from esper.tolaria.task.prepare import prepare
from esper.urza.own.library import Library
from tests.unit.urza.own.making import SOURCE, written

OTHER = "another battery staple 0123456789 abcdefgh"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ESPER_KEYRING", "ESPER_LEYLINE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "library"
    assert esper(["urza", "add", str(written(tmp_path / "mine")), "--library", str(path)]) == 0
    return path


def config(library: Path, **fields: object) -> TrainConfig:
    settings = {"blueprints": ("lab.gated",), "library": library, "run_dir": library.parent / "run", "epochs": 1}
    return TrainConfig(**{**settings, **fields})


def artifact(library: Path, mark: bytes) -> Path:
    return next(path for path in (library / "artifacts").iterdir() if mark in path.read_bytes())


def refusal(kind: type[EsperError], given: TrainConfig, *, resumes: bool = False) -> str:
    before = set(sys.modules)
    with pytest.raises(kind) as raised:
        own_blueprints(given, resumes=resumes)
    assert "\n" not in str(raised.value)
    assert not {name for name in set(sys.modules) - before if name.startswith("esper_own")}, "the file was run"
    return str(raised.value)


def test_runs_without_one_look_at_no_library(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = TrainConfig(blueprints=("span.linear", "stack.double"), library=tmp_path / "empty")
    assert own_blueprints(given, resumes=False) is NO_OWN
    assert not list((tmp_path / "empty").iterdir())


def test_a_named_library_that_is_not_there_is_refused_at_a_start_alone(tmp_path: Path) -> None:
    given = TrainConfig(library=tmp_path / "mistyped")
    with pytest.raises(ConfigError, match=r"library = .*mistyped': is not there; `esper urza add` makes one"):
        own_blueprints(given, resumes=False)
    assert own_blueprints(given, resumes=True) is NO_OWN
    assert not (tmp_path / "mistyped").exists()


def test_a_verified_one_is_loaded_and_its_factory_is_the_executors(library: Path) -> None:
    own = own_blueprints(config(library), resumes=False)
    assert [blueprint.blueprint_id for blueprint in own.blueprints] == ["lab.gated"]
    run = prepare(config(library), own=own)
    assert set(run.executor._state.config.factories) == set(own.factories)


def test_a_changed_file_a_changed_recipe_and_a_missing_one_are_named(library: Path) -> None:
    source = artifact(library, b"class Gated")
    source.write_bytes(source.read_bytes() + b"raise SystemExit\n")
    assert str(source) in refusal(CorruptRecord, config(library))
    source.unlink()
    assert "is missing" in refusal(EsperError, config(library))
    recipe = artifact(library, b"gated.py")
    recipe.write_bytes(recipe.read_bytes() + b"\x00")
    assert str(recipe) in refusal(CorruptRecord, config(library))


def test_a_sheet_of_another_key_is_not_believed(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", OTHER)
    assert "key 'library', which is unknown" in refusal(UntrustedBlueprint, config(library))
    monkeypatch.delenv("ESPER_LEYLINE_SECRET")
    (library / "secret").chmod(0o600)
    (library / "secret").write_text(OTHER)
    assert "the secret is another" in refusal(UntrustedBlueprint, config(library))


def test_a_factory_that_was_exchanged_together_with_its_digests_is_not_believed(library: Path, tmp_path: Path) -> None:
    """Whoever may write to the library but has no key: every digest is right, the signature isn't."""
    elsewhere = tmp_path / "elsewhere"
    written(tmp_path / "evil", source=SOURCE + "import os\n")
    assert esper(["urza", "add", str(tmp_path / "evil" / "gated.toml"), "--library", str(elsewhere)]) == 0
    os.replace(elsewhere / "catalog.db", library / "catalog.db")
    for path in (elsewhere / "artifacts").iterdir():
        os.replace(path, library / "artifacts" / path.name)
    assert "the secret is another" in refusal(UntrustedBlueprint, config(library))


def test_an_unknown_name_says_where_it_was_looked_for(library: Path) -> None:
    words = refusal(ConfigError, config(library, blueprints=("lab.other",)))
    assert "lab.gated" in words
    assert str(library) in words


def test_a_runs_copy_is_what_it_resumes_with_and_is_verified_as_well(library: Path) -> None:
    given = config(library)
    own = own_blueprints(given, resumes=False)
    given.run_dir.mkdir()
    own.keep(given.run_dir)
    assert esper(["urza", "gc", "--retire", "lab.gated", "--library", str(library)]) == 0
    assert own_blueprints(given, resumes=True).blueprints == own.blueprints
    copy = given.run_dir / FOLDER
    source = next(path for path in copy.iterdir() if b"class Gated" in path.read_bytes())
    content = source.read_bytes()
    source.write_bytes(content + b"#")
    assert str(source) in refusal(CorruptRecord, given, resumes=True)
    source.write_bytes(content)
    (copy / "lab.gated.sheet").unlink()
    assert "put back a copy" in refusal(CorruptRecord, given, resumes=True)


def test_a_run_whose_key_has_ended_resumes_once_its_blueprint_is_signed_again(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(library)
    own = own_blueprints(given, resumes=False)
    given.run_dir.mkdir()
    own.keep(given.run_dir)
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", OTHER)
    assert "`esper urza add` it again" in refusal(UntrustedBlueprint, given, resumes=True)
    assert esper(["urza", "add", str(tmp_path / "mine" / "gated.toml"), "--library", str(library)]) == 0
    assert own_blueprints(given, resumes=True).blueprints == own.blueprints
    (given.run_dir / FOLDER / "lab.gated.sheet").write_bytes(b"\xff")
    assert "its sheet is damaged" in refusal(UntrustedBlueprint, given, resumes=True)


def test_the_library_keeps_what_a_run_was_grown_with(library: Path, tmp_path: Path) -> None:
    given = config(library)
    given.run_dir.mkdir()
    own = own_blueprints(given, resumes=False)
    own.keep(given.run_dir)
    written(tmp_path / "mine", source=SOURCE + "# two\n")
    assert esper(["urza", "add", str(tmp_path / "mine" / "gated.toml"), "--library", str(library)]) == 0
    assert esper(["urza", "gc", "--library", str(library)]) == 0
    digests = {entry.digest for entry in Library(library, SYSTEM_CLOCK).entries()}
    assert own.blueprints[0].digest in digests
    assert artifact(library, b"# two")
    assert artifact(library, b"class Gated")
