"""Appending to a log, and reading what was appended."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from esper.core.errors import CorruptRecord, StorageError
from esper.core.storage.files import FORBIDDEN, forbidden, open_regular, sync_directory
from esper.core.storage.store import end_process
from esper.core.wal.format import MAX_PAYLOAD_BYTES, Record, encode_record
from esper.core.wal.repair import create, repair, require_log
from esper.core.wal.scan import Condition, inspect, mapped, prefix


class Log:
    """One log, owned by this process. `repaired` says that opening it cut something off."""

    def __init__(
        self, path: Path, *, strict: bool = True, on_fatal: Callable[[BaseException], None] = end_process
    ) -> None:
        self._path = path
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._last_seq = 0
        if not path.exists():
            create(path)
        self._handle = own(path)
        try:
            self._open(strict)
        except BaseException:
            os.close(self._handle)
            raise

    @property
    def path(self) -> Path:
        return self._path

    @property
    def last_seq(self) -> int:
        """Sequence of the newest record; 0 if there is none."""
        return self._last_seq

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._end_bytes

    def append(self, type: int, payload: bytes) -> int:
        """Write one record and return its sequence. It survives this process at once, a power cut after `sync`."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise StorageError(f"a record of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")
        with self._lock:
            record = Record(seq=self._last_seq + 1, type=type, payload=payload)
            self._write(encode_record(self._log_id, record))
            self._last_seq = record.seq
            return record.seq

    def sync(self) -> None:
        """Return when every record is on the disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._on_fatal(error)
            raise StorageError(f"log {self._path}: fsync failed: {error.strerror}") from error

    def records(self, after_seq: int = 0) -> Iterator[Record]:
        """Records with a sequence above `after_seq`, oldest first, as of this call."""
        return self._read(after_seq, self._last_seq)

    def take_place_of(self, other: Log) -> None:
        """Stand where `other` stood, which is closed; at any moment one of them does, whole and owned."""
        self.sync()
        os.replace(self._path, other.path)
        sync_directory(other.path.parent)
        self._path = other.path
        os.close(other._handle)

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        self.sync()
        os.close(self._handle)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self, after_seq: int, last_seq: int) -> Iterator[Record]:
        with mapped(self._path) as data:
            for record in prefix(data, self._log_id):
                if record.seq > last_seq:
                    return
                if record.seq > after_seq:
                    yield record

    def _open(self, strict: bool) -> None:
        found = inspect(self._path)
        require_log(self._path, found)
        if found.condition is Condition.CORRUPT and strict:
            raise CorruptRecord(
                f"log {self._path} is damaged at byte {found.end_bytes}, after record {found.last_seq}, and "
                f"{found.records_after_damage} whole records follow; look at it with `esper wal inspect`, "
                "then `esper wal repair` keeps what precedes the damage"
            )
        self.repaired = found.condition is not Condition.CLEAN
        if self.repaired:
            repair(self._path)
            found = inspect(self._path)
        if found.log_id is None:
            raise CorruptRecord(f"log {self._path} has no header")
        self._log_id, self._last_seq, self._end_bytes = found.log_id, found.last_seq, found.end_bytes

    def _write(self, raw: bytes) -> None:
        """Append all of `raw` or nothing: half a record in the middle of a log would be corruption."""
        try:
            written = os.pwrite(self._handle, raw, self._end_bytes)
            if written != len(raw):
                raise OSError(None, f"only {written} of {len(raw)} bytes were taken")
        except OSError as error:
            self._take_back()
            raise StorageError(f"log {self._path} can't be written: {error.strerror}") from error
        self._end_bytes += len(raw)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._handle, self._end_bytes)
        except OSError as error:
            self._on_fatal(error)


def own(path: Path) -> int:
    """An open handle of a log that no other process has. Raises StorageError where one has."""
    try:
        handle = open_regular(path, os.O_RDWR)
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise forbidden(error, path) from error
        raise StorageError(f"log {path} can't be opened: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StorageError(f"log {path} is in use by another process") from error
    return handle
