"""What an error of SQLite or of the system says about a stored file: damaged, unwritable, or none of the file's."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from esper.core.errors import CorruptRecord, ForbiddenStorage, StorageError, UnwritableStorage
from esper.core.plain import clause
from esper.core.storage.files import FORBIDDEN, UNWRITABLE, forbidden

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
REFUSED = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
REMEDY = "put back a copy of it, or move it away to begin with an empty one"


def fault_of(path: Path, error: Exception) -> StorageError | None:
    """The file's fault that an error of SQLite tells of; None where it is the statement's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of the bits says more exactly which
    if code in DAMAGED:
        return CorruptRecord(f"{path} is damaged: {clause(error)}; {REMEDY}")
    if code in REFUSED:
        return UnwritableStorage(f"{path} can't be written: {error}")
    return None


def system_fault(path: Path, error: OSError, why: str) -> StorageError:
    """The system's refusal of a file or folder, of the kind that its exit code follows from; `why` follows the path."""
    if error.errno in FORBIDDEN:
        return forbidden(error, path)
    kind = UnwritableStorage if error.errno in UNWRITABLE else StorageError
    return kind(f"{path} {why}")


def opening_fault(path: Path, error: Exception) -> StorageError:
    """Why a database can't be opened. What SQLite says of a damaged schema may not even be text."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, OSError):
        place = Path(error.filename or path)  # what lies beside it may be the cause
        return system_fault(place, error, f"can't be opened as a database: {error.strerror}")
    if isinstance(found := fault_of(path, error), UnwritableStorage):
        return found
    return CorruptRecord(f"{path} can't be opened as a database: {_one_line(error)}; {REMEDY}")


def exit_code_of(error: BaseException) -> int:
    """What a process ends with that can't go on without its storage."""
    if isinstance(error, ForbiddenStorage):
        return os.EX_NOPERM
    return os.EX_DATAERR if isinstance(error, CorruptRecord) else os.EX_IOERR


def _one_line(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its schema is damaged"
    return " ".join(str(error).split()) or type(error).__name__
