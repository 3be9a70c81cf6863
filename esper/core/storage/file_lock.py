"""A file that one process holds: the kernel lets go of it however the process ends, kill -9 and a power cut included.

The file says who holds it. It may be removed while it is held: a file that was swapped meanwhile is never believed.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from esper.core.storage.files import open_regular


def try_hold(path: Path) -> TextIO | None:
    """Hold `path` until what is returned is closed; None while another process holds it. Raises OSError."""
    while True:
        file = open(path, "a", encoding="utf-8", opener=lambda name, flags: open_regular(Path(name), flags))  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            file.close()
            raise
        if is_at(file, path):
            break
        file.close()
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def is_held(path: Path) -> bool:
    """Whether a process holds `path` now."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def says_held(path: Path) -> bool:
    """Whether a process holds `path`: looked up, never tried, so that the look can refuse nobody who would hold it.

    One that says it is another machine's is believed: only that machine could look.
    """
    match who(path).split():
        case ["pid", number, "on", host] if number.isdecimal():
            return host != socket.gethostname() or _lives(int(number))
    return False


def who(path: Path) -> str:
    """Who holds `path`, as it says: "pid N on HOST"; empty where it says nothing."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def holder(path: Path) -> str:
    """Who holds `path` and since when, in words."""
    with suppress(OSError):
        since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if text := who(path):
            return f"another process ({text}, since {since:%Y-%m-%d %H:%M:%S} UTC)"
    return "another process"


def is_at(file: TextIO, path: Path) -> bool:
    """Whether the open file is still the one that the path names: somebody may have removed or replaced it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
