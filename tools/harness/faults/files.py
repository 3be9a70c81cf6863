"""What can befall files: a byte flipped, the end cut off, emptied, a directory in its place, a disk without room."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def flipped(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if content:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Damage, ...] = (flipped, truncated, emptied, replaced_by_a_directory)


def fill_disk() -> None:
    """From now on this process can write nothing to a file; to be called in a child before its program starts."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
