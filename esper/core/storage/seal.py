"""The digest of a database that was closed in order, beside it: a byte changed while nobody used it is no secret.

SQLite itself notices damage to its structure alone. A database whose owner was killed has no seal.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from esper.core.errors import CorruptRecord
from esper.core.storage.files import FORBIDDEN, forbidden, read_regular, sync_directory, write_atomically


def seal_of(path: Path) -> Path:
    """Where a database's seal is."""
    return path.with_name(path.name + ".seal")


def seal(path: Path) -> None:
    """Say what the closed database holds; where nothing can be written it stays without a seal."""
    with suppress(OSError):
        write_atomically(seal_of(path), f"{_digest(path)}\n".encode(), mode=0o600)


def unseal(path: Path) -> bool:
    """Remove the seal of a database that is to be opened; whether it had one. Raises CorruptRecord if it is broken."""
    where = seal_of(path)
    if not where.exists():
        return False
    require_unbroken(path)
    where.unlink()
    sync_directory(where.parent)
    return True


def require_unbroken(path: Path) -> None:
    """Raises CorruptRecord for a database that has a seal and isn't as it says."""
    where = seal_of(path)
    if not (where.exists() and path.exists()):  # whoever moved a database away may have left its seal
        return
    remedy = f"put back a copy of both, or remove {where.name} to have the database used as it is"
    try:
        digest = read_regular(where).decode(errors="replace").strip()
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise forbidden(error, where) from error
        raise CorruptRecord(f"{where}, the seal of {path.name}, can't be read: {error.strerror}; {remedy}") from error
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise CorruptRecord(f"{where}, the seal of {path.name}, is damaged; {remedy}")
    if digest != _digest(path):
        raise CorruptRecord(f"{path} is damaged: it is not as its last owner left and sealed it; {remedy}")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
