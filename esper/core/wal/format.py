"""Bytes of a header and of a record, both ways."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"ESPRWAL1"
VERSION = 1
LOG_ID_BYTES = 16
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024

_HEADER = struct.Struct("<8sII16s")
_FRAME = struct.Struct("<IIQB")
_COVERED = struct.Struct("<IQB")

HEADER_BYTES = _HEADER.size
FRAME_BYTES = _FRAME.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry of a log."""

    seq: int
    type: int
    payload: bytes


def encode_header(log_id: bytes) -> bytes:
    return _HEADER.pack(MAGIC, VERSION, zlib.crc32(log_id), log_id)


def decode_header(raw: bytes) -> bytes | None:
    """The log id, or None if these are not the bytes of a header."""
    if len(raw) < HEADER_BYTES:
        return None
    magic, version, checksum, log_id = _HEADER.unpack_from(raw)
    is_whole = magic == MAGIC and version == VERSION and checksum == zlib.crc32(log_id)
    return bytes(log_id) if is_whole else None


def resembles_header(raw: bytes) -> bool:
    """Whether these are the first bytes of a log, whole, damaged or cut off."""
    if len(raw) < HEADER_BYTES:
        return MAGIC.startswith(raw[: len(MAGIC)])
    magic, _, checksum, log_id = _HEADER.unpack_from(raw)
    return bool(magic == MAGIC or checksum == zlib.crc32(log_id))


def encode_record(log_id: bytes, record: Record) -> bytes:
    checksum = _checksum(log_id, len(record.payload), record.seq, record.type, record.payload)
    return _FRAME.pack(len(record.payload), checksum, record.seq, record.type) + record.payload


def decode_record(log_id: bytes, data: memoryview, offset: int, lowest_seq: int) -> Record | None:
    """The whole record that starts at `offset`, or None if there is none with a sequence from `lowest_seq` on."""
    if offset + FRAME_BYTES > len(data):
        return None
    length, checksum, seq, kind = _FRAME.unpack_from(data, offset)
    end = offset + FRAME_BYTES + length
    # A byte of log holds less than one record, which bounds the sequence before anything is summed up.
    if length > MAX_PAYLOAD_BYTES or end > len(data) or not lowest_seq <= seq <= lowest_seq + len(data):
        return None
    payload = data[offset + FRAME_BYTES : end]
    if checksum != _checksum(log_id, length, seq, kind, payload):
        return None
    return Record(seq=seq, type=kind, payload=bytes(payload))


def _checksum(log_id: bytes, length: int, seq: int, kind: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_COVERED.pack(length, seq, kind), zlib.crc32(log_id)))
