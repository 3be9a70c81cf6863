"""What a killed owner's journal holds is there at the next start, or its damage is told: nothing vanishes silently."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from esper.core.errors import CorruptRecord, StorageError
from esper.core.storage.read_only import looked_at
from esper.core.storage.store import SqliteStore

COMMITS = 20
KILLED = f"""
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA synchronous = FULL")
connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY, text TEXT)")
if "anew" in sys.argv:
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
for n in range({COMMITS}):
    connection.execute("INSERT INTO numbers (text) VALUES (?)", ("x" * 6000,))
if "open" in sys.argv:
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    for n in range(50):
        connection.execute("INSERT INTO numbers (text) VALUES (?)", ("y" * 6000,))
os.kill(os.getpid(), 9)
"""


def killed(path: Path, *how: str) -> Path:
    """A database whose owner was killed after its commits, `open` in a transaction, `anew` over an older journal."""
    subprocess.run([sys.executable, "-c", KILLED, str(path), *how], check=False)
    assert journal_of(path).stat().st_size > 20 * 4096
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return killed(tmp_path / "a.db")


def journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def count(path: Path) -> int:
    """How many rows an owner finds who opens it now."""
    store = SqliteStore(path, lambda connection: None)
    try:
        found: int = store.read(lambda connection: connection.execute("SELECT count(*) FROM numbers").fetchone()[0])
        return found
    finally:
        store.close()


def flip(journal: Path, at: int) -> None:
    content = bytearray(journal.read_bytes())
    content[at] ^= 1
    journal.write_bytes(content)


@pytest.mark.parametrize("how", [(), ("open",)], ids=["between commits", "in a transaction"])
def test_what_a_killed_owner_committed_is_there(tmp_path: Path, how: tuple[str, ...]) -> None:
    assert count(killed(tmp_path / "a.db", *how)) == COMMITS


def test_a_journal_that_was_begun_anew_over_an_older_one_is_whole(path: Path) -> None:
    assert count(killed(path, "anew")) == 2 * COMMITS


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.3, 0.7, 0.9999])
@pytest.mark.parametrize("is_copied", [False, True], ids=["with the index", "copied without it"])
def test_a_flipped_bit_of_the_journal_is_told(path: Path, share: float, is_copied: bool) -> None:
    journal = journal_of(path)
    flip(journal, int(share * journal.stat().st_size))
    if is_copied:
        path.with_name("a.db-shm").unlink()
        if share > 0.99:  # of the last commit, which a power cut may have torn
            assert count(path) == COMMITS - 1
            return
    with pytest.raises(CorruptRecord, match=r"a\.db-wal is damaged: .*; put back a copy of a\.db"):
        count(path)
    with pytest.raises(CorruptRecord, match=r"a\.db-wal is damaged"), looked_at(path):
        pass


@pytest.mark.parametrize("left", [0.0, 0.001, 0.5, 0.99])
def test_a_journal_that_was_cut_off_is_told(path: Path, left: float) -> None:
    os.truncate(journal_of(path), int(left * journal_of(path).stat().st_size))
    with pytest.raises(CorruptRecord, match=r"a\.db-wal is damaged"):
        count(path)


def test_a_journal_that_is_gone_is_told_and_the_remedy_works(path: Path) -> None:
    journal_of(path).unlink()
    with pytest.raises(CorruptRecord, match=r"gone or empty.*or remove a\.db-wal and a\.db-shm to go on"):
        count(path)
    path.with_name("a.db-shm").unlink()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_damaged_index_is_made_anew(path: Path) -> None:
    flip(path.with_name("a.db-shm"), 16)
    flip(path.with_name("a.db-shm"), 64)
    assert count(path) == COMMITS


def test_the_journal_of_a_database_that_was_moved_away_is_nobodys(path: Path) -> None:
    path.unlink()
    flip(journal_of(path), 5000)
    SqliteStore(path, lambda connection: None).close()


def test_a_live_database_is_looked_at_whatever_its_owner_does_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore(path, lambda c: c.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT)"))
    for number in range(60):
        store.submit(lambda c: c.execute("INSERT INTO numbers (text) VALUES (?)", ("x" * 6000,)))
        if number % 7 == 0:
            store.submit(lambda c: c.execute("PRAGMA user_version"))
        with looked_at(path) as connection:
            connection.execute("SELECT count(*) FROM numbers").fetchone()
    store.close()


Replacement = Callable[[Path], None]


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["a.db", "a.db-wal", "a.db-shm"])
@pytest.mark.parametrize("replace", [as_pipe, as_device])
def test_a_pipe_or_a_device_in_a_files_place_keeps_nobody(path: Path, name: str, replace: Replacement) -> None:
    replace(path.with_name(name))
    with pytest.raises(StorageError, match=f"{name} can't be opened as a database: it is no regular file"):
        count(path)


def test_a_copy_of_a_killed_owners_files_is_as_good(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    assert count(tmp_path / "copy" / "a.db") == COMMITS


def test_a_look_at_a_closed_database_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteStore(path, lambda c: c.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT)")).close()
    before = sorted(tmp_path.iterdir())
    with looked_at(path) as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("has_shared_memory", [True, False])
def test_a_look_at_what_a_killed_owner_left_sees_all_of_it_and_changes_none(
    path: Path, *, has_shared_memory: bool
) -> None:
    shared = path.with_name(f"{path.name}-shm")
    assert shared.exists()
    if not has_shared_memory:
        shared.unlink()
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with looked_at(path) as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (COMMITS,)
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
