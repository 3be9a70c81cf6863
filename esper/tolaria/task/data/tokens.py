"""Tokens from a file as common tools write it: one little-endian uint16 or uint32 after another, read as it lies there.

nanoGPT's files are bare; llm.c's begin with 256 int32, which say what follows. A mark, the number of the token that
ends or begins each document, divides the stream into documents; without one, equal stretches stand for them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from esper.core.errors import ConfigError
from esper.tolaria.task.data.links import check_link
from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.data.stream import CHUNK, Corpus, split_by_document, with_stretches
from esper.tolaria.task.data.token_file import TokenFile

TYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
BARE_TYPE = "uint16"
HEADER_BYTES = 1024
# Magic number and version of llm.c's headers, and the type of the tokens behind them; the third number counts them.
HEADERS = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
EVALUATION_MAGIC = 20240522
MAGICS = {magic for magic, _ in HEADERS} | {EVALUATION_MAGIC}
# Larger than any tokeniser's: a file of which it seems to be true holds something else.
LARGEST_FOUND_VOCABULARY = 2**20
GLANCE = 4096
# How files of other kinds begin, and what to do about each.
OTHER_KINDS = {
    b"\x93NUMPY": "a NumPy array; write its numbers alone: np.load(FILE).astype('<u2').tofile(OTHER), or '<u4'",
    b"PK\x03\x04": "a zip archive, as .npz and .pt are; write the tokens alone: tokens.astype('<u2').tofile(OTHER)",
    b"\x80\x02\x8a\x0a": "an old .pt; write the tokens alone: tokens.numpy().astype('<u2').tofile(OTHER)",
    b"\x1f\x8b\x08": "compressed with gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"\x89HDF": "an HDF5 file; write the tokens alone: tokens.astype('<u2').tofile(OTHER)",
    b"MMIDIDX": "an index of Megatron; give the .bin beside it",
}


class Layout(NamedTuple):
    """Where a file's tokens begin, in bytes, of which type they are, and how many were promised."""

    offset: int
    type: str
    promised: int | None


class Tokens:
    """Sequences of `context` tokens, each with the tokens that follow."""

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        held_out: int,
        vocabulary: int | None = None,
        token_type: str | None = None,
        mark: str | None = None,
    ) -> None:
        self._path = path
        self._context = context
        self._held_out = held_out
        self._vocabulary = vocabulary
        self._type = token_type
        self._mark = mark

    def splits(self, seed: int) -> Splits:
        tokens = read_tokens(self._path, self._type)
        starts = np.zeros(1, dtype=np.int64)
        if self._mark is not None:
            starts = _document_starts(tokens, self._mark, self._path)
        corpus = Corpus(
            name=f"tokens:{self._path}",
            tokens=tokens,
            starts=with_stretches(starts, len(tokens), self._context),
            vocabulary=checked_vocabulary(tokens, self._vocabulary, self._path),
        )
        return split_by_document(corpus, self._context, self._held_out, seed)


def read_tokens(path: Path, token_type: str | None) -> TokenFile:
    """The file's tokens, read when they are asked for. Raises ConfigError where it can't hold them."""
    check_link(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEADER_BYTES)
            layout = _layout(path, head, token_type)
            tokens = TokenFile(file, f"tokens:{path}", TYPES[layout.type], offset=layout.offset)
    except OSError as error:
        raise ConfigError("data", str(path), f"can't be read: {error.strerror}; expected one file of tokens") from error
    if (size - layout.offset) % tokens.dtype.itemsize:
        arrived = f"{size - layout.offset:,} bytes are no whole number of {layout.type}"
        raise ConfigError("data", str(path), f"{arrived}; is it cut short, or of another --token-type?")
    if layout.promised is not None and len(tokens) != layout.promised:
        remedy = f"its header promises {layout.promised:,} tokens, {len(tokens):,} are there"
        raise ConfigError("data", str(path), remedy)
    if not len(tokens):
        raise ConfigError("data", str(path), "is empty; give a file of tokens")
    if layout.offset == 0 and token_type is None and _are_halves(tokens[:GLANCE]):
        remedy = (
            "looks like uint32 (every second uint16 is 0 or small); give --token-type uint32, or the one that it is"
        )
        raise ConfigError("data", str(path), remedy)
    return tokens


def _are_halves(glance: NDArray[Any]) -> bool:
    """Whether uint16 are evidently the low and high halves of uint32: as ids have it, the high ones are small."""
    if len(glance) < 2:
        return False
    low, high = int(glance[0::2].max()), int(glance[1::2].max())
    return high == 0 < low or high < LARGEST_FOUND_VOCABULARY >> 16 <= low


def checked_vocabulary(tokens: TokenFile, given: int | None, path: Path) -> int:
    """The vocabulary that was given, if no token is beyond it; else the largest token plus one."""
    largest = max(int(tokens[start : start + CHUNK].max()) for start in range(0, len(tokens), CHUNK))
    if given is None and largest >= LARGEST_FOUND_VOCABULARY:
        remedy = f"its largest token is {largest:,}: give the right --token-type, or the --vocabulary if that is right"
        raise ConfigError("data", str(path), remedy)
    if given is not None and given - 1 > np.iinfo(tokens.dtype).max:
        remedy = f"is more than {tokens.dtype.name} can tell apart, as which {path} is read"
        raise ConfigError("vocabulary", given, f"{remedy}; give --token-type uint32 if it is of that type")
    if given is not None and largest >= given:
        raise ConfigError(
            "vocabulary",
            given,
            f"is too small for {path}: give at least {largest + 1}, its largest token is {largest:,}",
        )
    return largest + 1 if given is None else given


def _layout(path: Path, head: bytes, token_type: str | None) -> Layout:
    for magic_bytes, what in OTHER_KINDS.items():
        if head.startswith(magic_bytes):
            raise ConfigError("data", str(path), f"is {what}")
    numbers = np.frombuffer(head, "<i4") if len(head) == HEADER_BYTES else np.zeros(3, np.int32)
    magic, version, count = (int(number) for number in numbers[:3])
    if magic not in MAGICS:
        return Layout(0, token_type or BARE_TYPE, None)
    kind = HEADERS.get((magic, version))
    if kind is None:
        what = "of multiple-choice questions" if magic == EVALUATION_MAGIC else f"of version {version}"
        known = ", ".join(f"{magic} version {version}" for magic, version in HEADERS)
        raise ConfigError("data", str(path), f"has a header {what} (magic {magic}); known are {known}")
    if token_type not in (None, kind):
        raise ConfigError("token_type", token_type, f"the header of {path} says {kind}; leave it out")
    return Layout(HEADER_BYTES, kind, count)


def _document_starts(tokens: TokenFile, mark: str, path: Path) -> NDArray[np.int64]:
    """Documents begin with the mark where the stream does, else after it."""
    if not mark.isdecimal():
        raise ConfigError("document_mark", mark, "tokens: needs the number of the token that divides documents")
    number = int(mark)
    chunks = range(0, len(tokens), CHUNK)
    marks = np.concatenate([np.flatnonzero(tokens[start : start + CHUNK] == number) + start for start in chunks])
    starts = marks if 0 in marks[:1] else np.concatenate(([0], marks + 1))
    starts = starts[starts < len(tokens)].astype(np.int64)
    if len(starts) < 2:
        raise ConfigError("document_mark", mark, f"divides nothing: it stands nowhere inside {path}")
    return starts
