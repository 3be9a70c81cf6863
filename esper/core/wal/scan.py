"""Reading a log from its first byte: its records, and what state its file is in."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from esper.core.errors import StorageError
from esper.core.storage.files import open_regular
from esper.core.wal.format import FRAME_BYTES, HEADER_BYTES, Record, decode_header, decode_record, resembles_header


class Condition(Enum):
    """State of a log's file."""

    CLEAN = "clean"
    TORN = "torn"
    CORRUPT = "corrupt"
    FOREIGN = "no log"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a scan found. `end_bytes` is where the records that are whole and in sequence end."""

    condition: Condition
    log_id: bytes | None
    records: int
    end_bytes: int
    size_bytes: int
    records_after_damage: int

    @property
    def last_seq(self) -> int:
        return self.records


def inspect(path: Path) -> Inspection:
    """Scan without changing anything."""
    with mapped(path) as data:
        log_id = decode_header(bytes(data[:HEADER_BYTES]))
        if log_id is None:
            # Only a file that never had a whole header can be torn there: headers are written in one piece.
            condition = Condition.TORN if len(data) < HEADER_BYTES else Condition.CORRUPT
            condition = condition if resembles_header(bytes(data[:HEADER_BYTES])) else Condition.FOREIGN
            return Inspection(
                condition=condition, log_id=None, records=0, end_bytes=0, size_bytes=len(data), records_after_damage=0
            )
        count, end = 0, HEADER_BYTES
        for record in prefix(data, log_id):
            count, end = count + 1, end + FRAME_BYTES + len(record.payload)
        later = _records_after(data, log_id, end, count + 1) if end < len(data) else 0
        condition = Condition.CLEAN if end == len(data) else Condition.CORRUPT if later else Condition.TORN
        return Inspection(
            condition=condition,
            log_id=log_id,
            records=count,
            end_bytes=end,
            size_bytes=len(data),
            records_after_damage=later,
        )


def prefix(data: memoryview, log_id: bytes) -> Iterator[Record]:
    """The records from the start on, up to the first that is not whole or not next in sequence."""
    seq, offset = 1, HEADER_BYTES
    while (record := decode_record(log_id, data, offset, seq)) is not None and record.seq == seq:
        yield record
        seq, offset = seq + 1, offset + FRAME_BYTES + len(record.payload)


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, read only as they are looked at."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            if file.seek(0, 2) == 0:
                yield memoryview(b"")
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as region, memoryview(region) as data:
                yield data
    except OSError as error:
        raise StorageError(f"log {path} can't be read: {error.strerror}") from error


def _records_after(data: memoryview, log_id: bytes, damage: int, lowest_seq: int) -> int:
    """How many whole records of this log stand anywhere behind `damage`."""
    found, offset = 0, damage + 1
    while offset + FRAME_BYTES <= len(data):
        record = decode_record(log_id, data, offset, lowest_seq)
        if record is None:
            offset += 1
        else:
            found, offset = found + 1, offset + FRAME_BYTES + len(record.payload)
    return found
