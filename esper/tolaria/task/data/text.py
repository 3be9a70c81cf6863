"""Text byte by byte: a file, the files of a folder and its folders, or those of a pattern such as `src/**/*.py`.

Every file is a document. A single file is divided by a mark, if one is given, or else into equal stretches. Several
files are packed into one temporary file, so that all text is one mapped array; names with a leading dot are left out.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import IO

import numpy as np

from esper.core.errors import ConfigError
from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.data.stream import Corpus, split_by_document, with_stretches

VOCABULARY = 256


class Text:
    """Sequences of `context` bytes, each with the bytes that follow."""

    def __init__(self, place: str, *, context: int, held_out: int, mark: str | None = None) -> None:
        self._place = place
        self._context = context
        self._held_out = held_out
        self._mark = mark

    def splits(self, seed: int) -> Splits:
        return split_by_document(self._corpus(), self._context, self._held_out, seed)

    def _corpus(self) -> Corpus:
        name = f"text:{self._place}"
        files = found_files(self._place)
        with _opened(files) as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        starts = np.cumsum([0, *(file.stat().st_size for file in files[:-1])])
        if (nul := content.find(b"\0")) >= 0:
            culprit = files[int(np.searchsorted(starts, nul, side="right")) - 1]
            remedy = "holds a zero byte, so it is no text; leave it out by a pattern, such as text:'FOLDER/**/*.py'"
            raise ConfigError("data", str(culprit), remedy)
        if self._mark is not None:
            inner = np.fromiter(_after_marks(content, self._mark), dtype=np.int64)
            if not len(inner):
                raise ConfigError("document_mark", self._mark, f"divides nothing: it stands nowhere inside {name}")
            starts = np.union1d(starts, inner)
        starts = with_stretches(starts, len(content), self._context)
        return Corpus(name=name, tokens=np.frombuffer(content, np.uint8), starts=starts, vocabulary=VOCABULARY)


def found_files(place: str) -> list[Path]:
    """The files of a place that hold anything, in order of their names. Raises ConfigError where there is none."""
    path = Path(place)
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = list(_below(path))
    elif has_magic(place):
        paths = [Path(name) for name in glob(place, recursive=True) if os.path.isfile(name)]
    else:
        raise ConfigError("data", f"text:{place}", "no such file or folder")
    try:
        filled = sorted(path for path in paths if path.stat().st_size)
    except OSError as error:
        raise _unreadable(error) from error
    if not filled:
        what = "is an empty file" if path.is_file() else f"holds no text: {len(paths)} files, all empty"
        raise ConfigError("data", f"text:{place}", f"{what}; give a file with text in it, or a folder of such")
    return filled


def _below(folder: Path) -> Iterator[Path]:
    def give_up(error: OSError) -> None:
        raise _unreadable(error) from error

    for parent, folders, names in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _opened(files: Sequence[Path]) -> IO[bytes]:
    """One file with the bytes of all."""
    try:
        if len(files) == 1:
            return files[0].open("rb")
        packed = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, packed)
        packed.flush()
    except OSError as error:
        raise _unreadable(error) from error
    return packed


def _unreadable(error: OSError) -> ConfigError:
    where = error.filename or tempfile.gettempdir()
    return ConfigError("data", str(where), f"can't be read or packed: {error.strerror}")


def _after_marks(content: mmap.mmap, mark: str) -> Iterator[int]:
    """Where documents begin that follow a mark."""
    pattern, position = mark.encode(), 0
    while (found := content.find(pattern, position)) >= 0:
        position = found + len(pattern)
        if position < len(content):
            yield position
