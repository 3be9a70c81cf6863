"""What a child says last, kept in memory for the parent that started it: its log may be on a full disk."""

from __future__ import annotations

import os
from contextlib import suppress

VARIABLE = "ESPER_LAST_WORD_FD"
MAX_BYTES = 4096


def make() -> int:
    """A place for a child's last word: a descriptor to pass on to it. The parent closes it."""
    return os.memfd_create("last word")


def leave(line: str) -> None:
    """Leave a line for the parent, if it asked for one; an earlier one is replaced."""
    with suppress(KeyError, ValueError, OSError):
        descriptor = int(os.environ[VARIABLE])
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, line.encode(errors="replace")[:MAX_BYTES], 0)


def heard(descriptor: int) -> str:
    """What the child left; empty if nothing."""
    return os.pread(descriptor, MAX_BYTES, 0).decode(errors="replace")
