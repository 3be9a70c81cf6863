"""Copies of a log, and cutting off what is damaged: nothing is thrown away before a copy of it is on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from esper.core.errors import CorruptRecord, StorageError
from esper.core.storage.files import sync_directory, write_atomically
from esper.core.wal.format import LOG_ID_BYTES, encode_header
from esper.core.wal.scan import Condition, Inspection, inspect


def create(path: Path) -> None:
    """A new, empty log with an id of its own; it exists as a whole or not at all."""
    write_atomically(path, new_header(), mode=0o600)


def backup(path: Path, target: Path) -> None:
    """A durable copy of the file as it is. An existing target is never overwritten."""
    try:
        with open(path, "rb") as source, open(target, "xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
    except OSError as error:
        raise StorageError(f"log {path} can't be copied to {target}: {error.strerror}") from error
    sync_directory(target.parent)


def repair(path: Path) -> Inspection:
    """Keep the whole records from the start on, after copying the file to "<log>.broken". Returns what was found."""
    found = inspect(path)
    if found.condition is Condition.CLEAN:
        return found
    require_log(path, found)
    backup(path, free_name(path))
    with open(path, "r+b") as file:
        file.truncate(found.end_bytes)
        if found.log_id is None:
            file.write(new_header())
            file.flush()
        os.fsync(file.fileno())
    return found


def require_log(path: Path, found: Inspection) -> None:
    """Refuse a file that never was a log: to repair it would be to destroy it. Raises CorruptRecord."""
    if found.condition is Condition.FOREIGN:
        raise CorruptRecord(
            f"{path} doesn't begin as a log does and is left as it is; name a log, or put back its copy"
        )


def new_header() -> bytes:
    """The header of a log with an id of its own."""
    return encode_header(os.urandom(LOG_ID_BYTES))


def free_name(path: Path) -> Path:
    """Path "<log>.broken", or with a number where earlier damage is still kept."""
    candidate, number = path.with_name(path.name + ".broken"), 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.broken.{number}")
    return candidate
