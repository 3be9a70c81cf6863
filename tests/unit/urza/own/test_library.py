"""The library: whole or absent after a kill, alike for many at once, and never without what a run refers to."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import ConfigError, CorruptRecord, DependencyViolationError, StorageError, UnwritableStorage
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.leyline import SeedRecipe
from esper.urza.own import library as module
from esper.urza.own.keys import SECRET, library_keyring
from esper.urza.own.library import CATALOG, Entry, Library
from esper.urza.own.sheet import believed
from tests.unit.urza.own.making import SOURCE, described

CLOCK = ManualClock(now_ns=1_800_000_000 * 10**9)
KEYS = Keyring.from_secret("correct horse battery staple 0123456789 abcdef")
SIGNER = Signer(KEYS, CLOCK)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library", CLOCK)


def add(library: Library, tmp_path: Path, mark: str = "") -> Entry:
    return library.add(described(tmp_path, source=f"{SOURCE}# {mark}\n"), SIGNER)[0]


def artifacts_of(library: Library, entry: Entry) -> list[bytes]:
    blueprint = believed(entry.sheet, entry.blueprint_id, KEYS, CLOCK)
    artifact = library.artifact(blueprint.artifact.digest)
    return [artifact, library.artifact(SeedRecipe.FromString(artifact).source.digest)]


def test_an_absent_library_is_empty_and_looking_makes_none(library: Library) -> None:
    assert library.entries() == []
    assert library.collect().files == ()
    with pytest.raises(DependencyViolationError, match="none yet"):
        library.current("lab.gated")
    with pytest.raises(ConfigError, match="no library"):
        library.note_use("0" * 64, library.directory)
    assert not library.directory.exists()


def test_what_was_added_is_there_with_its_files(library: Library, tmp_path: Path) -> None:
    entry = add(library, tmp_path)
    assert library.current("lab.gated") == entry
    assert artifacts_of(library, entry)[1].startswith(SOURCE.encode())


def test_the_same_again_is_no_new_version_and_another_is(library: Library, tmp_path: Path) -> None:
    first = add(library, tmp_path)
    again, is_new = library.add(described(tmp_path, source=f"{SOURCE}# \n"), Signer(KEYS, CLOCK))
    assert (again.version, again.digest, is_new) == (1, first.digest, False)
    second = add(library, tmp_path, "changed")
    assert [(entry.version, entry.is_current) for entry in library.entries()] == [(2, True), (1, False)]
    assert library.current("lab.gated").digest == second.digest


def test_adding_again_mends_a_file_that_was_lost(library: Library, tmp_path: Path) -> None:
    entry = add(library, tmp_path)
    for path in library.artifact_dir.iterdir():
        path.unlink()
    with pytest.raises(DependencyViolationError, match="artefact"):
        artifacts_of(library, entry)
    assert len(artifacts_of(library, add(library, tmp_path))) == 2


def test_a_changed_file_is_damage_that_is_named(library: Library, tmp_path: Path) -> None:
    entry = add(library, tmp_path)
    for path in library.artifact_dir.iterdir():
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CorruptRecord, match="SHA-256"):
        artifacts_of(library, entry)


def test_an_emptied_catalogue_costs_no_file(library: Library, tmp_path: Path) -> None:
    """So is one whose first adding was killed: nobody can say then what is garbage."""
    entry = add(library, tmp_path)
    (library.directory / CATALOG).write_bytes(b"")
    for change in (library.collect, lambda: library.note_use(entry.digest, tmp_path)):
        with pytest.raises(StorageError, match=r"catalog.db is empty.*`esper urza add`"):
            change()
    assert len(list(library.artifact_dir.iterdir())) == 2
    assert add(library, tmp_path).digest == entry.digest


def test_a_full_disk_is_told_as_that_and_loses_nothing(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = add(library, tmp_path)
    connected = module._connected

    def full(path: Path) -> sqlite3.Connection:
        db = connected(path)
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        return db

    def many() -> None:
        for number in range(20):
            add(library, tmp_path, f"more {number}")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_connected", full)
        with pytest.raises(UnwritableStorage, match=r"catalog.db can't be written: .*full"):
            many()
    assert entry.digest in {each.digest for each in library.entries()}
    assert add(library, tmp_path, "with room").version > entry.version


def test_what_others_put_among_the_files_is_no_garbage(library: Library, tmp_path: Path) -> None:
    add(library, tmp_path)
    (library.artifact_dir / "lost+found").mkdir()
    scratch = library.artifact_dir / f".{'0' * 64}.abcd0123"
    scratch.write_bytes(b"left by a kill")
    assert library.collect().files == (scratch,)
    assert (library.artifact_dir / "lost+found").is_dir()


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_damaged_catalogue_is_one_line(library: Library, tmp_path: Path, damage: bytes) -> None:
    add(library, tmp_path)
    (library.directory / CATALOG).write_bytes(damage)
    with pytest.raises(StorageError) as raised:
        library.entries()
    assert "catalog.db" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_garbage_is_what_neither_a_new_run_nor_an_old_one_can_get(library: Library, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    first, second = add(library, tmp_path, "1"), add(library, tmp_path, "2")
    library.note_use(first.digest, run)
    third = add(library, tmp_path, "3")
    orphan = library.artifact_dir / ("0" * 64)
    orphan.write_bytes(b"left by a kill")
    dry = library.collect(is_dry=True)
    assert {entry.digest for entry in dry.entries} == {second.digest}
    assert orphan in dry.files
    assert len(library.entries()) == 3
    assert library.collect() == dry
    assert {entry.digest for entry in library.entries()} == {first.digest, third.digest}
    for entry in library.entries():
        assert len(artifacts_of(library, entry)) == 2
    assert not orphan.exists()
    run.rmdir()
    assert [entry.digest for entry in library.collect().entries] == [first.digest]


def test_a_retired_blueprint_goes_with_its_last_run(library: Library, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    entry = add(library, tmp_path)
    library.note_use(entry.digest, run)
    library.retire("lab.gated")
    with pytest.raises(DependencyViolationError):
        library.current("lab.gated")
    assert library.collect().entries == ()
    assert len(artifacts_of(library, entry)) == 2
    run.rmdir()
    library.collect()
    assert library.entries() == []
    assert list(library.artifact_dir.iterdir()) == []


def test_many_who_add_and_collect_at_once_lose_nothing(library: Library, tmp_path: Path) -> None:
    run, failures, added = tmp_path / "run", list[Exception](), list[Entry]()
    run.mkdir()

    def adding(number: int) -> None:
        try:
            for turn in range(4):
                entry = add(library, tmp_path / f"thread{number}", f"{number} {turn}")
                library.note_use(entry.digest, run)
                added.append(entry)
                library.collect()
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=adding, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    kept = {entry.digest: entry for entry in library.entries()}
    # A version may be superseded and collected between its adding and the note of its use, its files with it.
    assert sum(entry.is_current for entry in kept.values()) == 1
    for entry in kept.values():
        assert len(artifacts_of(library, entry)) == 2
    assert len({entry.version for entry in added}) == len(added) == 12


@pytest.mark.parametrize("kill_after", [1, 3])
def test_a_kill_in_the_middle_of_adding_leaves_whole_versions_and_garbage(
    library: Library, tmp_path: Path, kill_after: int
) -> None:
    names = ("a", "b")
    command = [sys.executable, "-m", "tests.unit.urza.own.crash", str(library.directory)]
    adders = [
        subprocess.Popen([*command, name, "0"], stdout=subprocess.PIPE, text=True, env={**os.environ}) for name in names
    ]
    told: list[str] = []
    for adder in adders:
        assert adder.stdout is not None
        told += [adder.stdout.readline().strip() for _ in range(kill_after)]
    for adder in adders:
        adder.send_signal(signal.SIGKILL)
        assert adder.stdout is not None
        told += [line.strip() for line in adder.stdout.readlines() if len(line.strip()) == 64]
        adder.stdout.close()
        adder.wait()
    kept = {entry.digest: entry for entry in library.entries()}
    assert set(told) <= set(kept)
    versions = sorted(entry.version for entry in kept.values())
    assert versions == list(range(1, len(versions) + 1))
    keys = [Keyring.from_secret(f"correct horse battery staple 0123456789 {name}") for name in names]
    for entry in kept.values():
        blueprint = next(filter(None, (_believed(entry, key) for key in keys)))
        recipe = SeedRecipe.FromString(library.artifact(blueprint.artifact.digest))
        assert library.artifact(recipe.source.digest)
    library.collect()
    assert len(list(library.artifact_dir.iterdir())) == 2
    assert add(library, tmp_path, "after").version == len(versions) + 1


def _believed(entry: Entry, keys: Keyring):
    try:
        return believed(entry.sheet, entry.blueprint_id, keys, CLOCK)
    except Exception:  # noqa: BLE001 - the other's
        return None


def test_the_librarys_own_secret_is_private_and_the_environments_goes_before_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key"):
        library_keyring(tmp_path, {})
    made = library_keyring(tmp_path, {}, is_made=True)
    assert library_keyring(tmp_path, {}).key("library", 0) == made.key("library", 0)
    assert (tmp_path / SECRET).stat().st_mode & 0o777 == 0o600
    assert library_keyring(tmp_path, {"ESPER_LEYLINE_SECRET": "correct horse battery staple 0123456789"}).active == "k1"
    (tmp_path / SECRET).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        library_keyring(tmp_path, {})


def test_many_who_make_the_secret_at_once_make_one(tmp_path: Path) -> None:
    at_once, made = threading.Barrier(8), list[object]()

    def making() -> None:
        at_once.wait()
        made.append(library_keyring(tmp_path, {}, is_made=True).key("library", 0))

    threads = [threading.Thread(target=making) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [library_keyring(tmp_path, {}).key("library", 0)] * 8
    assert os.listdir(tmp_path) == [SECRET]
