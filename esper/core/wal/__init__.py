"""A framed append-only log. This page is the disk format; all integers are little-endian.

    header, 32 bytes   "ESPRWAL1" | u32 version = 1 | u32 crc32 of the log id | 16 bytes log id
    record             u32 length of payload (at most 16 MiB) | u32 crc32 | u64 sequence | u8 type | payload

A record's crc32 (zlib) covers log id, length, sequence, type and payload, so that a record of another log is no record
of this one. Sequences start at 1 and have no gaps. Damage that no whole record follows is a torn tail: it is copied
to "<log>.broken" and cut off when the log is opened. Damage that a whole record follows is corruption: a strict log
refuses to open. A file that doesn't begin as a log, such as a database, is never changed. A failed fsync ends the
process, because nobody knows what it left on the disk.
"""

from esper.core.wal.format import MAX_PAYLOAD_BYTES, Record
from esper.core.wal.log import Log
from esper.core.wal.repair import backup, repair
from esper.core.wal.restore import restore
from esper.core.wal.scan import Condition, Inspection, inspect

__all__ = ["MAX_PAYLOAD_BYTES", "Condition", "Inspection", "Log", "Record", "backup", "inspect", "repair", "restore"]
