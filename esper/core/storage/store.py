"""One SQLite file, one writer: everything that must be "both or neither" goes through here.

One thread with one connection does every write and every checkpoint, which keeps clear of SQLite's race between
several checkpointing connections. Work that waits at the same time shares one commit, and each piece is undone by
itself. A piece's future resolves when it is on the disk. If a commit fails or the file is damaged, what the disk holds
is unknown, and the process ends. A closed database is sealed, one without a seal is checked when it is opened.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from esper.core.errors import ConfigError, CorruptRecord, StorageError, UnwritableStorage
from esper.core.process.last_word import leave
from esper.core.storage.file_lock import holder, try_hold
from esper.core.storage.files import FORBIDDEN, UNWRITABLE, forbidden, open_regular
from esper.core.storage.journal import require_whole
from esper.core.storage.seal import seal, unseal
from esper.core.storage.storage_faults import REMEDY, exit_code_of, fault_of, opening_fault

T = TypeVar("T")

MAX_GROUP = 256
_BEGIN = "BEGIN IMMEDIATE"
_UNDO_FIRST = ("ROLLBACK", _BEGIN)
_UNDO = ("ROLLBACK TO piece",)
CLOSE_TIMEOUT_S = 10.0


def end_process(error: BaseException) -> None:
    """What a failed commit does: no cleanup could be trusted. Whoever started the process reads its exit code."""
    line = f"storage failed, the process ends: {error}"
    leave(line)
    with suppress(OSError):  # its log may be on the same full disk
        print(line, file=sys.stderr, flush=True)
    os._exit(exit_code_of(error))


@dataclass(slots=True, eq=False)
class _Work(Generic[T]):
    """One piece: what to do, and where its result goes."""

    fn: Callable[[sqlite3.Connection], T]
    future: Future[T] = field(default_factory=Future)
    result: T | None = None
    error: BaseException | None = None

    def run(self, connection: sqlite3.Connection, *, is_first: bool) -> None:
        # The first of a transaction is undone with it: nothing else is in it yet.
        if not is_first:
            connection.execute("SAVEPOINT piece")
        try:
            self.result = self.fn(connection)
        except BaseException as error:
            # Whatever it is, it belongs to the caller, who waits for the future.
            self.error = error
            if not connection.in_transaction:
                raise StorageError(f"SQLite undid the whole transaction: {error}") from error
            if isinstance(error, sqlite3.Error) and fault_of(Path(), error) is not None:
                raise
            for statement in _UNDO_FIRST if is_first else _UNDO:
                connection.execute(statement)
        if not is_first:
            connection.execute("RELEASE piece")

    def resolve(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]


class SqliteStore:
    """A database file that this process owns."""

    def __init__(
        self,
        path: Path,
        create: Callable[[sqlite3.Connection], None],
        *,
        on_fatal: Callable[[BaseException], None] = end_process,
    ) -> None:
        self._path = path
        self._on_fatal = on_fatal
        self._lock_file = _own(path)
        self._readers: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._closing = threading.Lock()
        self._closed = False
        self._failure: StorageError | None = None
        self._work: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=f"writer of {path.name}", daemon=True)
        self._writer.start()
        try:
            self.submit(create).result()
        except sqlite3.Error as error:
            self.close()
            raise StorageError(f"{path}: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        return self._path

    def submit(self, fn: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Run `fn` in the writer; the future has its result once the disk has its changes.

        An exception undoes what `fn` did, and nothing else, and comes back through the future.
        """
        work = _Work(fn)
        with self._closing:
            self._require_open()
            self._work.put(work)
        return work.future

    def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` now, in this thread, on a connection that can't write; it sees what was committed."""
        self._require_open()
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            self._local.connection = connection
            self._readers.append(connection)
        try:
            return fn(connection)
        except sqlite3.Error as error:
            if (fault := fault_of(self._path, error)) is None or isinstance(fault, UnwritableStorage):
                raise
            raise fault from error

    def close(self) -> None:
        """Finish what was submitted and let go of the file."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # Readers first: the connection that closes last brings the journal into the database, and they can't.
        for reader in self._readers:
            reader.close()
        self._work.put(None)
        self._writer.join(CLOSE_TIMEOUT_S)
        if self._writer.is_alive():
            raise StorageError(f"{self._path}: writes in flight took longer than {CLOSE_TIMEOUT_S:g} s")
        if self._failure is None and not self._path.with_name(self._path.name + "-wal").exists():
            seal(self._path)
        self._lock_file.close()

    def _require_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StorageError(f"{self._path} is closed")

    def _write(self) -> None:
        try:
            connection = _open_for_writing(self._path)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: who waits for it would wait for ever
            self._refuse_all(opening_fault(self._path, error))
            return
        try:
            while (group := self._next_group()) is not None:
                if not self._commit(connection, group):
                    return
        finally:
            connection.close()

    def _next_group(self) -> list[_Work[Any]] | None:
        """What waits now, up to MAX_GROUP pieces; None when the store is closing and nothing is left."""
        group = []
        work = self._work.get()
        while work is not None:
            if work.future.set_running_or_notify_cancel():
                group.append(work)
            if len(group) == MAX_GROUP or self._work.empty():
                return group
            work = self._work.get()
        self._work.put(None)
        return group or None

    def _commit(self, connection: sqlite3.Connection, group: list[_Work[Any]]) -> bool:
        try:
            connection.execute(_BEGIN)
            for work in group:
                work.run(connection, is_first=work is group[0])
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the edge of the thread
            fatal = fault_of(self._path, error) or StorageError(f"{self._path}: commit failed: {error}")
            self._on_fatal(fatal)
            for work in group:
                work.future.set_exception(fatal)
            self._refuse_all(fatal)
            return False
        for work in group:
            work.resolve()
        return True

    def _refuse_all(self, error: StorageError) -> None:
        """After a failure: answer whatever is queued, and take nothing more."""
        with self._closing:
            self._failure = error
            while not self._work.empty():
                work = self._work.get()
                if work is not None and work.future.set_running_or_notify_cancel():
                    work.future.set_exception(error)


def _own(path: Path) -> TextIO:
    """An open, locked file beside the database: two processes with one ledger would be a split brain."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock_file = try_hold(lock_path)
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise UnwritableStorage(f"{error.filename or lock_path} can't be written: {error.strerror}") from error
        if error.errno in FORBIDDEN:
            raise forbidden(error, lock_path) from error
        raise ConfigError("state directory", str(path.parent), f"can't be used ({error.strerror})") from error
    if lock_file is None:
        remedy = f"{path.name} is in use by {holder(lock_path)}; stop it, or give another directory"
        raise ConfigError("state directory", str(path.parent), remedy)
    return lock_file


def _open_for_writing(path: Path) -> sqlite3.Connection:
    was_sealed = unseal(path)
    if not was_sealed:
        require_whole(path)
    os.close(open_regular(path, os.O_RDWR | os.O_CREAT))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if not was_sealed:
            _check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Look through a database that nobody closed, and make sure that it can be written."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise CorruptRecord(f"{path} is damaged: {' '.join(found.split())}; {REMEDY}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version}")
