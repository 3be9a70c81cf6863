"""A database that is only looked at: also while its service writes it. It and what lies beside it stay as they are."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from esper.core.storage.file_lock import is_held
from esper.core.storage.files import open_regular
from esper.core.storage.journal import require_whole


@contextmanager
def looked_at(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing. Raises OSError for a file that can't be read, CorruptRecord, sqlite3.Error."""
    log, shared = (path.with_name(f"{path.name}-{part}") for part in ("wal", "shm"))
    for needed in (path, *(file for file in (log, shared) if file.exists())):
        os.close(open_regular(needed, os.O_RDONLY))  # SQLite would say only that it can't open it
    require_whole(path)
    # A reader shares memory with the writer through a file beside the database. Where nobody writes, a reader would
    # leave that file behind, or write it anew: what a writer that was killed left in its log is read in a copy.
    if is_held(path.with_name(f"{path.name}.lock")):
        with _opened(path, "mode=ro") as connection:
            yield connection
    elif not log.exists():
        with _opened(path, "mode=ro&immutable=1") as connection:
            yield connection
    else:
        with TemporaryDirectory(prefix="esper-") as folder:
            for file in (path, log):
                shutil.copyfile(file, Path(folder) / file.name)
            with _opened(Path(folder) / path.name, "mode=ro") as connection:
                yield connection


def _opened(path: Path, how: str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True))
