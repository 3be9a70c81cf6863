"""The journal that a killed owner left beside its database, looked through before SQLite takes it.

SQLite ends at the first frame that it can't use and drops what follows without a word, since a write that a power cut
tore looks the same. Two things tell damage from a tear: a commit after the broken one, which was only begun once that
one was on the disk, and the count of frames in the shared memory's file, which SQLite raises once they are there.
Without that file, as in a copy, damage to the last commit alone can't be told from a tear.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper.core.errors import CorruptRecord
from esper.core.storage.files import read_regular

# SQLite's own layout (https://sqlite.org/walformat.html): a header, then frames, each a header and a page.
MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # the order of bytes in which words are added up
HEADER, FRAME_HEADER = struct.Struct(">IIII8sII"), struct.Struct(">II8sII")
INDEX, INDEX_DIGESTED = struct.Struct("=IIIBBHIIII8sII"), 40
NATIVE = "<" if sys.byteorder == "little" else ">"
DONE_AT = 96
"""Where the index says how many frames the database has already."""
Sums = tuple[int, int]
Frame = tuple[bool, bool, bool]


@dataclass(frozen=True, slots=True)
class _Index:
    """What the shared memory's file says of the journal: the frames that are committed, and whose they are."""

    frames: int
    is_done: bool
    """Whether all of them were brought into the database."""
    salts: bytes


@dataclass(frozen=True, slots=True)
class _Journal:
    """What is usable of a journal."""

    salts: bytes
    frames: int
    """Up to the last whole commit."""
    goes_on: bool
    """Whether commits follow the first one that is broken."""


def require_whole(path: Path) -> None:
    """Look through the journal of the database at `path`, which may be in use. Raises CorruptRecord, or OSError."""
    if not path.exists():  # whoever moved a database away may have left its journal, which SQLite then removes
        return
    journal, shared = (path.with_name(f"{path.name}-{part}") for part in ("wal", "shm"))
    while True:
        index = _index(shared)  # first: what it counts was in the journal before
        content = read_regular(journal) if journal.exists() else b""
        lost = _lost(index, _journal(content), len(content))
        if lost is None:
            return
        if not content or read_regular(journal)[: HEADER.size] == content[: HEADER.size]:
            break  # else its owner began it anew meanwhile
    raise CorruptRecord(
        f"{journal} is damaged: {lost}; put back a copy of {path.name} with all that belongs to it, or remove "
        f"{journal.name} and {shared.name} to go on without what was last written"
    )


def _lost(index: _Index | None, journal: _Journal | None, size_bytes: int) -> str | None:
    counted = 0 if index is None or index.is_done else index.frames
    if journal is None:
        if size_bytes > HEADER.size or counted:
            return "it has no header that holds" if size_bytes else f"it is gone or empty, and held {counted} pages"
        return None
    if index is not None and journal.salts == index.salts and journal.frames < index.frames:
        return f"{journal.frames} of its {index.frames} pages hold"
    return f"commits follow its page {journal.frames + 1}, which doesn't hold" if journal.goes_on else None


def _index(shared: Path) -> _Index | None:
    """The first copy of the index's header that holds; None without one."""
    content = read_regular(shared) if shared.exists() else b""
    if len(content) < DONE_AT + 4:
        return None
    (done,) = struct.unpack_from("=I", content, DONE_AT)
    for start in (0, INDEX.size):
        *_, frames, _pages, _first, _second, salts, first, second = INDEX.unpack_from(content, start)
        if frames and _added((0, 0), content[start : start + INDEX_DIGESTED], NATIVE) == (first, second):
            return _Index(frames, done >= frames, salts)
    return None


def _journal(content: bytes) -> _Journal | None:
    """None without a header that holds."""
    if len(content) < HEADER.size:
        return None
    magic, _version, page, _checkpoint, salts, *wanted = HEADER.unpack_from(content)
    order = MAGIC.get(magic)
    if order is None or _added((0, 0), content[: HEADER.size - 8], order) != tuple(wanted):
        return None
    frames = _frames(content, page, salts, order, (wanted[0], wanted[1]))
    whole = 0
    for number, (commits, _is_own, holds) in enumerate(frames, 1):
        if not holds:
            return _Journal(salts, whole, goes_on=_goes_on(commits, frames))
        whole = number if commits else whole
    return _Journal(salts, whole, goes_on=False)


def _goes_on(commits: bool, rest: Iterator[Frame]) -> bool:
    """Whether frames of a further commit follow a broken one, which `commits` itself or is the part of one."""
    for further, is_own, _holds in rest:
        if commits and is_own:
            return True
        commits = commits or (further and is_own)
    return False


def _frames(content: bytes, page: int, salts: bytes, order: str, sums: Sums) -> Iterator[Frame]:
    """Each frame: whether it commits, whether it is of this journal, and whether it and all before it hold."""
    for start in range(HEADER.size, len(content) - FRAME_HEADER.size - page + 1, FRAME_HEADER.size + page):
        _page, size_after, own_salts, *wanted = FRAME_HEADER.unpack_from(content, start)
        begin = start + FRAME_HEADER.size
        sums = _added(_added(sums, content[start : start + 8], order), content[begin : begin + page], order)
        yield size_after > 0, own_salts == salts, own_salts == salts and sums == tuple(wanted)


def _added(sums: Sums, content: bytes, order: str) -> Sums:
    """SQLite's checksum, carried on over `content`, a multiple of 8 bytes."""
    first, second = sums
    for even, odd in struct.iter_unpack(f"{order}II", content):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
