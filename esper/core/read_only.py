"""A database that is only looked at: also while its service writes it, and where nothing can be written beside it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def looked_at(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing. Raises OSError for a file that can't be read, else sqlite3.Error."""
    with path.open("rb"):
        pass  # SQLite would say only that it can't open it
    # A reader shares memory with writers through a file beside the database. Where it can't be made and no log of a
    # writer is there, nobody writes.
    is_still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_still else ''}"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection
