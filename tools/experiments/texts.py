"""Texts for experiments, made where they are used: real source code, a source without memory, a text learnt by heart.

`python`: source files of the packages that are installed beside Python, in a random order, up to a size; of each only
`piece_bytes` from its middle, if that is given.
`headers`: C and C++ headers that lie there, torch's above all.
`markov`: bytes of an order-1 source: the next byte depends on the last one alone, so depth has nothing to give.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

SYMBOLS = b"abcdefghijklmnopqrstuvwxyz .,()\n"
CONCENTRATION = 0.1
DOCUMENT_BYTES = 8192
LARGEST = 2**40


def write_text(folder: Path, *, kind: str, size: int, piece_bytes: int | None = None, seed: int = 0) -> str:
    """Make the documents of a text of about `size` bytes, a file each; returns their SHA-256. There already: kept."""
    digest = hashlib.sha256()
    made = {"python": partial(_installed, "*.py"), "headers": partial(_installed, "*.h"), "markov": _markov}[kind]
    documents = made(size if piece_bytes is None else LARGEST, seed)
    if piece_bytes is not None:
        documents = _pieces(documents, size, piece_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(documents):
        digest.update(document)
        path = folder / f"{number:05}.txt"
        if not path.exists():
            path.write_bytes(document)
    return digest.hexdigest()


def _pieces(documents: Iterator[bytes], size: int, length: int) -> Iterator[bytes]:
    """A piece of each document that is long enough: pieces of one would know each other by heart."""
    long = (text[len(text) // 2 :][:length] for text in documents if len(text) >= 2 * length)
    yield from islice(long, size // length)


def _installed(pattern: str, size: int, seed: int) -> Iterator[bytes]:
    paths = sysconfig.get_paths()
    roots = sorted({paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"]})
    found = sorted({path for root in roots for path in Path(root).rglob(pattern) if path.is_file()})
    total = 0
    for index in np.random.default_rng(seed).permutation(len(found)):
        text = found[index].read_bytes()
        if text and b"\0" not in text:
            yield text
            total += len(text)
        if total >= size:
            return


def _markov(size: int, seed: int) -> Iterator[bytes]:
    """Each row of the transition matrix is drawn from a sparse Dirichlet distribution: 1.7 nats a byte with seed 0."""
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.full(len(SYMBOLS), CONCENTRATION), size=len(SYMBOLS)).cumsum(axis=1)
    symbols, documents = np.frombuffer(SYMBOLS, dtype=np.uint8), -(-size // DOCUMENT_BYTES)
    states = np.empty((documents, DOCUMENT_BYTES), dtype=np.int64)
    states[:, 0] = random.integers(len(SYMBOLS), size=documents)
    for place in range(1, DOCUMENT_BYTES):
        below = rows[states[:, place - 1]] < random.random((documents, 1))
        states[:, place] = np.minimum(below.sum(axis=1), len(SYMBOLS) - 1)
    yield from (symbols[document].tobytes() for document in states)
