"""A disk that damages a file, or hangs over it: the file is a pipe that nobody writes to, and its readers wait."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class Kept:
    """One file, whole at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes()
        self._states = {"whole": self.mend, "damaged": self._damage, "hanging": self._hang}

    def become(self, state: str) -> None:
        """Whole, damaged or hanging from now on."""
        self.mend()
        self._states[state]()

    def mend(self) -> None:
        """Readers that wait get it now, later ones find it."""
        before = os.open(self._path, os.O_RDWR)
        try:
            self._replace(self._content)
            if stat.S_ISFIFO(os.fstat(before).st_mode):
                os.write(before, self._content)
        finally:
            os.close(before)

    def _damage(self) -> None:
        self._replace(self._content + b"#")

    def _hang(self) -> None:
        pipe = self._path.with_suffix(".new")
        os.mkfifo(pipe)
        pipe.replace(self._path)

    def _replace(self, content: bytes) -> None:
        file = self._path.with_suffix(".new")
        file.write_bytes(content)
        file.replace(self._path)
