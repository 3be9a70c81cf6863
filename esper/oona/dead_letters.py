"""What the embedded bus put aside, read from its file, also while a service owns it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from esper.core.errors import StorageError
from esper.core.read_only import looked_at
from esper.leyline import BusEnvelope

_ROWS = "SELECT name, stored_ns, sequence, envelope FROM dead_letters ORDER BY stored_ns, sequence"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An envelope, the group that could not handle it, and when it was put aside (Unix nanoseconds)."""

    group: str
    stored_ns: int
    envelope: BusEnvelope


def read(path: Path) -> list[DeadLetter]:
    """Every dead letter that is still kept, oldest first. The file isn't changed."""
    try:
        with looked_at(path) as connection:
            return [_letter(*row) for row in connection.execute(_ROWS)]
    except sqlite3.Error as error:
        raise StorageError(f"{path} can't be read as a bus: {error}") from error


def _letter(group: str, stored_ns: int, sequence: int, raw: bytes) -> DeadLetter:
    envelope = BusEnvelope.FromString(raw)
    envelope.sequence = sequence
    return DeadLetter(group, stored_ns, envelope)
