"""Durable files: a file is replaced as a whole or not at all, and its directory entry survives a power cut."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.core.errors import ForbiddenStorage

# What a file system says where nothing more can be written; whoever made room goes on.
UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# And where its user may not.
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_SMALL_BYTES = 1 << 18


def forbidden(error: OSError, path: object) -> ForbiddenStorage:
    """What the system's refusal means, and what to do about it."""
    place = error.filename or path
    return ForbiddenStorage(f"{place} can't be used: {error.strerror}; give this user the right to read and write it")


def how_made_writable(error: OSError) -> str:
    """What lets one write again, by what the system said."""
    return "make it writable" if error.errno == errno.EROFS else "make room there"


def why_not_made(error: OSError) -> str:
    """Why a folder couldn't be made; the system says "File exists" of a file in its place."""
    if isinstance(error, FileExistsError):
        return "is a file, no folder"
    return f"can't be made: {error.strerror}"


def told(error: OSError) -> str:
    """The system's words, led by the file rather than by a number."""
    return f"{error.filename} can't be used: {error.strerror}" if error.filename else str(error)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have an error of the system name its file, which one of writing to an open file doesn't."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def read_regular(path: Path) -> bytes:
    """What a file holds. Raises OSError, also for a pipe or a device, which might keep its reader for ever."""
    with named(path), os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def open_regular(path: Path, flags: int, mode: int = 0o600) -> int:
    """A handle of a file. Raises OSError, also for a folder, a pipe or a device."""
    handle = os.open(path, flags | os.O_NONBLOCK, mode)
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return handle
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def write_atomically(path: Path, content: bytes | bytearray, *, mode: int = 0o644) -> None:
    """Replace `path` by `content`, on the disk when this returns; it never has a wider mode, not even briefly."""
    with _scratch(path, content, mode) as scratch:
        os.replace(scratch, path)
    sync_directory(path.parent)


def write_new(path: Path, content: bytes | bytearray, *, mode: int = 0o644) -> None:
    """The same where nothing is there yet. Raises FileExistsError, of many at once for all but one."""
    with _scratch(path, content, mode) as scratch:
        os.link(scratch, path)
    sync_directory(path.parent)


def has_room(folder: Path) -> bool:
    """Whether a small file can be written there; nothing of it stays."""
    try:
        with _scratch(folder / "room", bytes(_SMALL_BYTES), 0o600):
            return True
    except OSError:
        return False


@contextmanager
def _scratch(path: Path, content: bytes | bytearray, mode: int) -> Iterator[Path]:
    """A whole file beside `path`, gone afterwards unless it was renamed."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield scratch
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # of the scratch file nobody has heard
        raise


@contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Change files of `folder` from what they hold: whoever else says so too waits."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_directory(path: Path) -> None:
    """Make new, renamed and removed entries of a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
