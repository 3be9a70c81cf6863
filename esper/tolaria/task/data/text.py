"""Text byte by byte: a file, the files of a folder and its folders, or those of a pattern such as `src/**/*.py`.

Every file is a document, and is read once, however many names and links lead to it: a second copy could be learned
from while the first is held out. A single file is divided by a mark, if one is given, or else into equal stretches.
Several files are packed into one temporary file; names with a leading dot and folders behind links are left out, and
so are files that hold a zero byte, which are no text and are told.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from glob import escape, glob, has_magic
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.tolaria.task.data.links import check_link
from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.data.stream import CHUNK, Corpus, split_by_document, with_stretches
from esper.tolaria.task.data.token_file import TokenFile

VOCABULARY = 256
BYTE = np.dtype(np.uint8)
NAMES_TOLD = 5
TEXT_WANTED = "give a file with text in it, or a folder of such"


class Text:
    """Sequences of `context` bytes, each with the bytes that follow."""

    def __init__(self, place: str, *, context: int, held_out: int, mark: str | None = None) -> None:
        self._place = place
        self._context = context
        self._held_out = held_out
        self._mark = mark

    def splits(self, seed: int) -> Splits:
        name = f"text:{self._place}"
        files = found_files(self._place)
        packed = _opened(files)
        with packed.file:
            tokens = TokenFile(packed.file, name, BYTE)
        if len(packed.skipped) == len(files):
            raise ConfigError("data", name, f"holds no text: {_no_text(files)}; {TEXT_WANTED}")
        starts = with_stretches(self._documents(tokens, packed.starts), len(tokens), self._context)
        corpus = Corpus(name=name, tokens=tokens, starts=starts, vocabulary=VOCABULARY)
        splits = split_by_document(corpus, self._context, self._held_out, seed)
        return replace(splits, doubts=(f"skipped {_no_text(packed.skipped)}",) if packed.skipped else ())

    def _documents(self, tokens: TokenFile, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where documents begin: with each file, and behind each mark."""
        if self._mark is None:
            return starts
        pattern = self._mark.encode()
        inner = np.fromiter((place + len(pattern) for place in _places(tokens, pattern)), dtype=np.int64)
        inner = inner[inner < len(tokens)]
        if not len(inner):
            raise ConfigError(
                "document_mark", self._mark, f"divides nothing: it stands nowhere inside text:{self._place}"
            )
        return np.union1d(starts, inner)


def found_files(place: str) -> list[Path]:
    """The files of a place that hold anything, each once, in order of their names. Raises ConfigError for none."""
    path = Path(place)
    check_link(path)
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = list(_below(path))
    elif has_magic(place):
        paths = [Path(name) for name in _matches(place)]
    else:
        raise ConfigError("data", f"text:{place}", "no such file or folder")
    for link in paths:
        check_link(link)
    try:
        filled = _each_once(paths)
    except OSError as error:
        raise _unreadable(error) from error
    if not filled:
        what = "is an empty file" if path.is_file() else f"holds no text: {counted(len(paths), 'file')}, all empty"
        raise ConfigError("data", f"text:{place}", f"{what}; {TEXT_WANTED}")
    return filled


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """Files with content, without further names of the same one; its own name comes before that of a link."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        status = path.stat()
        if status.st_size:
            found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def _matches(pattern: str) -> Iterator[str]:
    """Files of a pattern and links that lead nowhere; `**` stands for folders below, but not behind links."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from (name for name in glob(pattern) if os.path.isfile(name) or not os.path.exists(name))
        return
    at = parts.index("**")
    rest = parts[at + 1 :] or ("*",)
    for folder in filter(os.path.isdir, glob(str(Path(*parts[:at])))):
        for parent, _ in _folders(Path(folder)):
            yield from _matches(str(Path(escape(parent), *rest)))


def _below(folder: Path) -> Iterator[Path]:
    for parent, names in _folders(folder):
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with the names of its files."""

    def give_up(error: OSError) -> None:
        raise _unreadable(error) from error

    for parent, folders, names in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield parent, names


@dataclass(kw_only=True, slots=True)
class _Packed:
    """Files in one: where each begins, and which were left out because they are no text."""

    file: IO[bytes]
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    skipped: list[Path] = field(default_factory=list)


def _opened(files: Sequence[Path]) -> _Packed:
    """One file with the bytes of all that are text; a single file stays where it is, text or not."""
    try:
        if len(files) == 1:
            single = files[0].open("rb")
            return _Packed(file=single, skipped=[] if _is_text(single) else list(files))
        packed = _Packed(file=tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
        starts: list[int] = []
        for path in files:
            with path.open("rb") as file:
                if not _is_text(file):
                    packed.skipped.append(path)
                    continue
                file.seek(0)
                starts.append(packed.file.tell())
                shutil.copyfileobj(file, packed.file)
        packed.file.flush()
    except OSError as error:
        raise _unreadable(error) from error
    packed.starts = np.array(starts, dtype=np.int64)
    return packed


def _is_text(file: IO[bytes]) -> bool:
    """Whether no byte is zero: texts have none, other files all but always."""
    return all(b"\0" not in chunk for chunk in iter(partial(file.read, CHUNK), b""))


def _no_text(files: Sequence[Path]) -> str:
    """How many files are no text, and the first of their names."""
    names = [*map(str, files[:NAMES_TOLD]), *([f"{len(files) - NAMES_TOLD:,} more"] if len(files) > NAMES_TOLD else ())]
    count = "1 file that isn't" if len(files) == 1 else f"{len(files):,} files that aren't"
    return f"{count} text (zero bytes in it): {', '.join(names)}"


def _unreadable(error: OSError) -> ConfigError:
    where = error.filename or tempfile.gettempdir()
    return ConfigError("data", str(where), f"can't be read or packed: {error.strerror}")


def _places(tokens: TokenFile, pattern: bytes) -> Iterator[int]:
    """Where a pattern stands in the bytes, from left to right and without overlaps."""
    position = 0
    while position < len(tokens):
        # A pattern may begin in this chunk and end in the next.
        chunk = tokens[position : position + CHUNK + len(pattern) - 1].tobytes()
        end = 0
        while (place := chunk.find(pattern, end)) >= 0:
            yield position + place
            end = place + len(pattern)
        position += max(CHUNK, end)
