"""Tokens as they lie in an open file, read piece by piece.

They are read, not mapped: where a mapped file is cut short, the system kills the process without a word. A file that
changes while it is read ends the run in one line, because what was held out could be trained on from then on.
"""

from __future__ import annotations

import os
import weakref
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from esper.core.errors import StorageError


class TokenFile:
    """The tokens [N] of one type behind an offset; a slice of them is an array."""

    def __init__(self, file: IO[bytes], name: str, dtype: np.dtype[Any], *, offset: int = 0) -> None:
        """The caller may close the file. `offset` is in bytes; a remainder at the end is left out."""
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._name = name
        self._offset = offset
        self._before = os.fstat(self._descriptor)
        self.dtype = dtype
        self._tokens = max(0, self._before.st_size - offset) // dtype.itemsize

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, span: slice) -> NDArray[Any]:
        """The tokens of a slice without a step. Raises StorageError where the file is no longer what was opened."""
        start, stop, _ = span.indices(self._tokens)
        size = self.dtype.itemsize
        wanted = max(0, stop - start) * size
        content = _read(self._descriptor, wanted, self._offset + start * size)
        self._check(len(content), wanted)
        return np.frombuffer(content, self.dtype)

    def _check(self, arrived: int, wanted: int) -> None:
        before, now = self._before, os.fstat(self._descriptor)
        if now.st_size != before.st_size:
            what = f"it had {before.st_size:,} bytes, now {now.st_size:,}"
        elif now.st_mtime_ns != before.st_mtime_ns:
            what = f"it was written to, though its {now.st_size:,} bytes are as many as before"
        elif arrived != wanted:
            what = f"{arrived:,} of {wanted:,} bytes could be read"
        else:
            return
        remedy = "restore it and go on with --resume, or start a new run; a file must stay as it is while it is read"
        raise StorageError(f"data {self._name} changed while it was read: {what}; {remedy}")


def _read(descriptor: int, wanted: int, position: int) -> bytes:
    """So many bytes, or those until the file's end; a single call gives at most 2 GiB, and may give less."""
    parts: list[bytes] = []
    while wanted > 0 and (part := os.pread(descriptor, wanted, position)):
        parts.append(part)
        wanted, position = wanted - len(part), position + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
