from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from esper.core.errors import ConfigError, CorruptRecord, StorageError, UnwritableStorage
from esper.core.process import last_word
from esper.core.storage.store import SqliteStore
from tests.permissions import as_its_user


def create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY)")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS children (n INTEGER REFERENCES numbers (n) DEFERRABLE INITIALLY DEFERRED)"
    )


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


def insert(n: int) -> object:
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (n,)).lastrowid


@pytest.fixture
def store(tmp_path: Path) -> object:
    store = SqliteStore(tmp_path / "state" / "a.db", create)
    yield store
    store.close()


class Barrier:
    """Holds the writer until it is told to go on, so that a group forms behind it."""

    def __init__(self, store: SqliteStore) -> None:
        self._go_on = threading.Event()
        self._is_held = threading.Event()
        self.future = store.submit(self._hold)
        assert self._is_held.wait(10)

    def _hold(self, connection: sqlite3.Connection) -> None:
        self._is_held.set()
        assert self._go_on.wait(10)

    def release(self) -> None:
        self._go_on.set()
        self.future.result(10)


def test_every_commit_is_synced_to_the_disk(store: SqliteStore) -> None:
    pragmas = {"journal_mode": "wal", "synchronous": 2}  # 2: FULL; with less, a power cut takes commits back
    for name, value in pragmas.items():
        assert store.submit(lambda c, name=name: c.execute(f"PRAGMA {name}").fetchone()[0]).result(10) == value


def test_a_write_returns_its_result_and_is_read_by_others(store: SqliteStore) -> None:
    assert store.submit(insert(3)).result(10) == 3
    assert store.read(numbers) == [3]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_exception_undoes_only_its_own_piece_of_a_group(place: int, store: SqliteStore) -> None:
    barrier = Barrier(store)

    def write_then_fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO numbers VALUES (2)")
        raise KeyError("mine")

    pieces = [insert(1), insert(3)]
    pieces.insert(place, write_then_fail)
    futures: list[Future[object]] = [store.submit(fn) for fn in pieces]
    barrier.release()
    with pytest.raises(KeyError, match="mine"):
        futures.pop(place).result(10)
    assert [future.result(10) for future in futures] == [1, 3]
    assert store.read(numbers) == [1, 3]


def test_work_that_waits_together_is_committed_together_and_in_order(store: SqliteStore) -> None:
    commits: list[str] = []
    store.submit(lambda connection: connection.set_trace_callback(commits.append)).result(10)
    barrier = Barrier(store)
    futures = [store.submit(insert(n)) for n in range(100)]
    commits.clear()
    barrier.release()
    assert [future.result(10) for future in futures] == list(range(100))
    assert commits.count("COMMIT") == 2


def test_a_future_cancelled_before_its_turn_does_nothing_and_harms_nobody(store: SqliteStore) -> None:
    barrier = Barrier(store)
    unwanted, wanted = store.submit(insert(1)), store.submit(insert(2))
    assert unwanted.cancel()
    barrier.release()
    assert wanted.result(10) == 2
    assert store.read(numbers) == [2]


def test_a_reader_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.read(insert(1))


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "a.db", create)
    first.submit(insert(7)).result(10)
    first.close()
    second = SqliteStore(tmp_path / "a.db", create)
    assert second.read(numbers) == [7]
    second.close()


def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db", create)
    futures = [store.submit(insert(n)) for n in range(600)]
    store.close()
    assert [future.result(0) for future in futures] == list(range(600))
    with pytest.raises(StorageError, match="closed"):
        store.submit(insert(1))
    with pytest.raises(StorageError, match="closed"):
        store.read(numbers)
    store.close()


def test_a_closed_store_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db", create)
    store.submit(insert(7)).result(10)
    store.read(numbers)
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.db.lock", "a.db.seal"]


def test_the_writer_closes_after_every_reader(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db", create)
    store.read(numbers)
    is_alive_then: list[bool] = []

    class Slow:
        def close(self) -> None:
            store._writer.join(0.2)
            is_alive_then.append(store._writer.is_alive())

    store._readers.append(Slow())  # type: ignore[arg-type]
    store.close()
    assert is_alive_then == [True]


def test_a_second_owner_is_refused_by_name(tmp_path: Path, store: SqliteStore) -> None:
    with pytest.raises(ConfigError, match=r"a\.db is in use by another process"):
        SqliteStore(store.path, create)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"no database, by any means; " * 100)
    with pytest.raises(StorageError, match=r"a\.db"):
        SqliteStore(path, create)


def test_a_directory_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state directory"):
        SqliteStore(tmp_path / "file" / "a.db", create)


def test_only_the_owner_can_read_the_files(store: SqliteStore) -> None:
    for path in store.path.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_failed_commit_is_fatal_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    deaths: list[BaseException] = []
    store = SqliteStore(tmp_path / "a.db", create, on_fatal=deaths.append)
    barrier = Barrier(store)
    orphan = store.submit(lambda connection: connection.execute("INSERT INTO children VALUES (404)").rowcount)
    innocent = store.submit(insert(1))
    barrier.release()
    for future in (orphan, innocent):
        with pytest.raises(StorageError, match="commit failed"):
            future.result(10)
    with pytest.raises(StorageError, match="commit failed"):
        store.submit(insert(2)).result(10)
    assert len(deaths) == 1
    store.close()
    again = SqliteStore(tmp_path / "a.db", create)
    assert again.read(numbers) == []
    again.close()


ENDS_IN_A_FAILED_COMMIT = """
import pathlib, sys
from esper.core.storage.store import SqliteStore
def create(connection):
    connection.execute("CREATE TABLE a (n INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE b (n INTEGER REFERENCES a (n) DEFERRABLE INITIALLY DEFERRED)")
store = SqliteStore(pathlib.Path(sys.argv[1]), create)
store.submit(lambda connection: connection.execute("INSERT INTO b VALUES (1)").rowcount).exception()
sys.exit(99)
"""


def test_the_default_answer_to_a_failed_commit_ends_the_process(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_IN_A_FAILED_COMMIT, str(tmp_path / "a.db")], capture_output=True, text=True
    )
    assert ended.returncode == os.EX_IOERR
    assert "commit failed" in ended.stderr


def closed(path: Path) -> bytes:
    """A database that was closed in order, and its bytes."""
    store = SqliteStore(path, create)
    store.submit(insert(7)).result(10)
    store.close()
    return path.read_bytes()


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :]


@pytest.mark.parametrize("offset", [0, 18, 47, 99, 4090, -1])
def test_a_byte_that_was_changed_in_a_closed_database_is_told(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "a.db"
    content = closed(path)
    path.write_bytes(flipped(content, offset % len(content)))
    with pytest.raises(CorruptRecord, match=r"a\.db is damaged: it is not as its last owner left"):
        SqliteStore(path, create)
    path.write_bytes(content)
    SqliteStore(path, create).close()


def test_a_closed_database_that_was_emptied_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    closed(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptRecord, match="not as its last owner left"):
        SqliteStore(path, create)


def test_a_database_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    closed(path)
    path.unlink()
    store = SqliteStore(path, create)
    assert store.read(numbers) == []
    store.close()


def test_a_damaged_seal_is_told_and_its_remedy_works(tmp_path: Path) -> None:
    path, seal = tmp_path / "a.db", tmp_path / "a.db.seal"
    closed(path)
    seal.write_bytes(b"\xff" * 10)
    with pytest.raises(CorruptRecord, match=r"a\.db\.seal.* is damaged; .*remove a\.db\.seal"):
        SqliteStore(path, create)
    seal.unlink()
    SqliteStore(path, create).close()


@pytest.mark.parametrize("text", [b"CREATE", b"INTEGER"])
def test_damage_that_sqlite_cannot_even_put_into_words_hangs_nobody(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.db"
    content = closed(path)
    (tmp_path / "a.db.seal").unlink()
    path.write_bytes(content.replace(text, bytes(byte ^ 0xFF for byte in text)))
    with pytest.raises(CorruptRecord, match=r"a\.db can't be opened as a database"):
        SqliteStore(path, create)


def test_a_database_that_nobody_closed_is_looked_through(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    content = closed(path)
    (tmp_path / "a.db.seal").unlink()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(CorruptRecord, match=r"a\.db"):
        SqliteStore(path, create)


def test_a_database_that_cannot_be_written_is_told_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    content = closed(path)
    (tmp_path / "a.db.seal").unlink()
    path.write_bytes(flipped(content, 18))  # SQLite takes it for one that only a newer version may write
    with pytest.raises(UnwritableStorage, match="readonly"):
        SqliteStore(path, create)


def test_a_directory_in_a_databases_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    with pytest.raises(StorageError, match=r"a\.db can't be opened as a database: Is a directory"):
        SqliteStore(tmp_path / "a.db", create)


def test_damage_that_is_met_later_ends_the_owner(tmp_path: Path) -> None:
    deaths: list[BaseException] = []
    store = SqliteStore(tmp_path / "a.db", create, on_fatal=deaths.append)

    def meet(connection: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(CorruptRecord, match=r"a\.db is damaged"):
        store.submit(meet).result(10)
    assert [type(death) for death in deaths] == [CorruptRecord]
    store.close()
    assert not (tmp_path / "a.db.seal").exists()


FILLS_ITS_DISK = """
import pathlib, resource, signal, sys
from esper.core.storage.store import SqliteStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore(pathlib.Path(sys.argv[1]), lambda c: c.execute("CREATE TABLE a (b BLOB)"))
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
store.submit(lambda c: c.execute("INSERT INTO a VALUES (zeroblob(1000000))").rowcount).exception()
sys.exit(99)
"""


def test_a_disk_that_fills_ends_the_owner_and_leaves_its_last_word(tmp_path: Path) -> None:
    word = last_word.make()
    command = [sys.executable, "-c", FILLS_ITS_DISK, str(tmp_path / "a.db")]
    environment = {**os.environ, last_word.VARIABLE: str(word)}
    ended = subprocess.run(command, capture_output=True, env=environment, pass_fds=(word,))
    assert ended.returncode == os.EX_IOERR
    assert "a.db" in last_word.heard(word)
    os.close(word)


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("a.db", 0o444, "a.db"),
        ("a.db", 0o000, "a.db"),
        ("a.db.seal", 0o000, "a.db.seal"),
        ("a.db.lock", 0o444, "a.db.lock"),
        (".", 0o555, "a.db.seal"),
    ],
)
def test_what_its_user_may_not_use_is_named_with_the_remedy(tmp_path: Path, name: str, mode: int, told: str) -> None:
    SqliteStore(tmp_path / "a.db", create).close()
    (tmp_path / name).chmod(mode)
    program = (
        "import sys; from pathlib import Path; from esper.core.errors import ForbiddenStorage\n"
        "from esper.core.storage.store import SqliteStore\n"
        "try: SqliteStore(Path(sys.argv[1]), lambda db: None)\n"
        "except ForbiddenStorage as error: print(error)\n"
    )
    command = [*as_its_user(), sys.executable, "-c", program, str(tmp_path / "a.db")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    finally:
        (tmp_path / name).chmod(0o755)
    remedy = "can't be used: Permission denied; give this user the right to read and write it"
    assert done.stdout == f"{tmp_path / told} {remedy}\n"
