"""Artefacts by content: what is read is what was named."""

from pathlib import Path

import pytest

from esper.core.errors import ConfigError, CorruptRecord, DependencyViolationError
from esper.urza.artifacts import ArtifactStore


def test_what_is_put_comes_back_under_its_digest(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.put(b"recipe")
    assert ArtifactStore(tmp_path).get(digest) == b"recipe"
    assert [path.name for path in tmp_path.iterdir()] == [digest]


def test_a_damaged_artefact_is_not_handed_out(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.put(b"recipe")
    (tmp_path / digest).write_bytes(b"recipf")
    with pytest.raises(CorruptRecord, match=digest):
        store.get(digest)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", ""])
def test_an_unknown_artefact_is_an_error_and_a_path_is_no_digest(tmp_path: Path, digest: str) -> None:
    with pytest.raises(DependencyViolationError):
        ArtifactStore(tmp_path).get(digest)


def test_a_missing_artefact_names_where_it_was_looked_for_and_the_settings_that_say_so(tmp_path: Path) -> None:
    for store, where in (
        (ArtifactStore(), "no directory of artefacts is set"),
        (ArtifactStore(tmp_path), str(tmp_path)),
    ):
        with pytest.raises(DependencyViolationError) as raised:
            store.get("0" * 64)
        assert f"urza: artefact '{'0' * 64}' is missing; {where}" in str(raised.value)
        assert "`esper up --artifact-dir DIR`, or `artifact_dir` in the settings of kasmina" in str(raised.value)


def test_a_directory_that_is_not_there_is_a_setting_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="artifact_dir"):
        ArtifactStore(tmp_path / "none")
