"""Putting a copy of a log back in its place."""

from __future__ import annotations

import os
from pathlib import Path

from esper.core.errors import CorruptRecord, StorageError
from esper.core.storage.files import write_atomically
from esper.core.wal.log import own
from esper.core.wal.repair import backup, free_name
from esper.core.wal.scan import Condition, Inspection, inspect


def restore(source: Path, path: Path) -> Inspection:
    """Put a whole copy in the place of a log; what stands there is kept as "<log>.broken". Returns what the copy holds.

    Raises CorruptRecord for a copy that isn't clean, StorageError for a log that is in use; nothing is changed then.
    """
    found = inspect(source)
    if found.condition is not Condition.CLEAN:
        raise CorruptRecord(f"copy {source} is {found.condition.value}, so it is not put back; name a whole one")
    try:
        content = source.read_bytes()
        if not path.exists():
            write_atomically(path, content, mode=0o600)
            return found
        handle = own(path)
        try:
            backup(path, free_name(path))
            write_atomically(path, content, mode=0o600)
        finally:
            os.close(handle)
    except OSError as error:
        raise StorageError(f"log {path} can't be replaced by {source}: {error.strerror}") from error
    return found
