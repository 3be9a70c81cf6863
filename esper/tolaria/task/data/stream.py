"""Text that need not fit into memory: one sequence of tokens, read from a file, and the documents in it.

Whole documents are held out for judging and for the test; training sequences are drawn from the others, laid end to
end, by a generator alone. So a sequence that is judged shares no document with anything that was learnt from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.data.splitting import JUDGE_SHARE, TEST_SHARE
from esper.tolaria.task.randomness import generator

# Documents that a set is of at least, where its share allows: a gain over 512 sequences of 32 source files was twice as
# uncertain as over as many independent ones, over those of 100 files half as much more.
TEST_DOCUMENTS, JUDGE_DOCUMENTS = 32, 100
# Where documents up to one a sequence are no more than this share of a text, judging takes them: then nothing is lost.
CHEAP_SHARE = 0.05
# A text without documents is cut into so many stretches, which then stand for documents, none shorter or longer than so
# many sequences: short ones have more neighbours in other sets, too few of them can't judge.
STRETCHES = 640
SHORTEST_STRETCH, LONGEST_STRETCH = 4, 16
PROBE_SEQUENCES = 64
CHUNK = 2**24


class TokenArray(Protocol):
    """Tokens [N] of one type, of which slices are taken: a file, or an array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a token."""

    def __len__(self) -> int:
        """Tokens."""

    def __getitem__(self, span: slice, /) -> NDArray[Any]:
        """The tokens of a slice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """All tokens of a source [N], and where each document begins [documents]: rising, the first at 0."""

    name: str
    tokens: TokenArray
    starts: NDArray[np.int64]
    vocabulary: int


class TokenStream:
    """Some documents of a corpus, laid end to end; a sequence may run from one into the next."""

    def __init__(self, corpus: Corpus, documents: NDArray[np.int64], context: int) -> None:
        """`documents` are numbers of documents, rising."""
        ends = np.append(corpus.starts[1:], len(corpus.tokens))
        # Neighbours make one piece.
        self._begins = corpus.starts[documents[np.diff(documents, prepend=-2) != 1]]
        self._ends = ends[documents[np.diff(documents, append=-2) != 1]]
        self._offsets = np.concatenate(([0], np.cumsum(self._ends - self._begins)))
        self._documents = documents
        self._document_ends = np.cumsum(ends[documents] - corpus.starts[documents])
        self._tokens = corpus.tokens
        self.context = context

    @property
    def tokens(self) -> int:
        """Tokens in the stream."""
        return int(self._offsets[-1])

    def __len__(self) -> int:
        """Sequences without a token in common."""
        return self.tokens // (self.context + 1)

    def sequences(self, positions: NDArray[np.int64]) -> Split:
        """The sequences that begin at positions of the stream, each with the tokens that follow: int64 [n, context]."""
        rows = torch.from_numpy(np.stack([self._read(int(position)) for position in positions]))
        return Split(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The document of each sequence there: the one that most of the tokens that follow are of; int64 [n]."""
        firsts, lasts = positions + 1, positions + self.context
        places = np.searchsorted(self._document_ends, firsts, side="right")
        ends = np.searchsorted(self._document_ends, lasts, side="right")
        for row in np.flatnonzero(places != ends):
            inner = self._document_ends[places[row] : ends[row]]
            places[row] += np.diff(np.concatenate(([firsts[row]], inner, [lasts[row] + 1]))).argmax()
        return self._documents[places]

    def draw(self, count: int, draw: torch.Generator) -> Split:
        """Sequences from positions drawn uniformly."""
        return self.sequences(torch.randint(self.tokens - self.context, (count,), generator=draw).numpy())

    def digest(self) -> str:
        """SHA-256 over every token."""
        state = hashlib.sha256(f"{self._tokens.dtype.str}:{self.context}:{self.tokens};".encode())
        for begin, end in zip(self._begins.tolist(), self._ends.tolist(), strict=True):
            for start in range(begin, end, CHUNK):
                state.update(np.ascontiguousarray(self._tokens[start : min(end, start + CHUNK)]).data)
        return state.hexdigest()

    def _read(self, position: int) -> NDArray[np.int64]:
        wanted = self.context + 1
        row = np.empty(wanted, dtype=np.int64)
        piece, filled = int(np.searchsorted(self._offsets, position, side="right")) - 1, 0
        while filled < wanted:
            begin = int(self._begins[piece]) + position + filled - int(self._offsets[piece])
            part = self._tokens[begin : min(begin + wanted - filled, int(self._ends[piece]))]
            row[filled : filled + len(part)] = part
            filled, piece = filled + len(part), piece + 1
        return row


def split_by_document(corpus: Corpus, context: int, held_out: int, seed: int) -> Splits:
    """Judging and test sets of `held_out` sequences each where the text suffices; the rest is the training stream."""
    length = context + 1
    lengths = np.diff(corpus.starts, append=len(corpus.tokens))
    order = torch.randperm(len(lengths), generator=generator(seed, "documents")).numpy()
    sets: dict[str, Split] = {}
    for name, share, documents in (("test", TEST_SHARE, TEST_DOCUMENTS), ("judge", JUDGE_SHARE, JUDGE_DOCUMENTS)):
        most, cheap = int(share * len(corpus.tokens)), int(CHEAP_SHARE * len(corpus.tokens))
        is_taken = _whole_documents(lengths[order], held_out * length, documents, most)
        if name == "judge":
            is_taken = _whole_documents(lengths[order], held_out * length, held_out, cheap, is_taken)
        chosen = TokenStream(corpus, np.sort(order[is_taken]), context)
        if not len(chosen):
            raise _too_short(corpus, lengths, context)
        shuffled = torch.randperm(len(chosen), generator=generator(seed, "sequences", name)).numpy() * length
        positions = shuffled[_evenly(chosen.documents_at(shuffled))[:held_out]]
        of_each = torch.from_numpy(chosen.documents_at(positions))
        sets[name] = replace(chosen.sequences(positions), documents=of_each)
        order = order[~is_taken]
    stream = TokenStream(corpus, np.sort(order), context)
    probe = stream.draw(PROBE_SEQUENCES, generator(seed, "probe"))
    task = TaskType.TASK_TYPE_LANGUAGE_MODEL
    return Splits(
        train=probe, judge=sets["judge"], test=sets["test"], stream=stream, task=task, outputs=corpus.vocabulary
    )


def with_stretches(starts: NDArray[np.int64], tokens: int, context: int) -> NDArray[np.int64]:
    """The documents' starts; where there is only one document, those of stretches of it."""
    if len(starts) > 1:
        return starts
    length = context + 1
    sequences = min(LONGEST_STRETCH, max(SHORTEST_STRETCH, tokens // length // STRETCHES))
    return np.arange(0, tokens, sequences * length, dtype=np.int64)


def _evenly(documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in the order that takes one of each document, then a second one of each that has it, and so on."""
    by_document = np.argsort(documents, kind="stable")
    _, counts = np.unique(documents, return_counts=True)
    rounds = np.concatenate([np.arange(count) for count in counts])
    return by_document[np.lexsort((by_document, rounds))]


def _whole_documents(
    lengths: NDArray[np.int64], wanted: int, count: int, most: int, taken: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Which documents make up `wanted` tokens in `count` documents at least; none that would lead above `most`.

    Those that are `taken` already stay.
    """
    is_taken = np.zeros(len(lengths), dtype=np.bool_) if taken is None else taken.copy()
    total, documents = int(lengths[is_taken].sum()), int(is_taken.sum())
    for row in np.flatnonzero(~is_taken).tolist():
        if total >= wanted and documents >= count:
            break
        if total + int(lengths[row]) <= most:
            is_taken[row] = True
            total, documents = total + int(lengths[row]), documents + 1
    return is_taken


def _too_short(corpus: Corpus, lengths: NDArray[np.int64], context: int) -> ConfigError:
    arrived = f"{len(corpus.tokens):,} tokens in {len(lengths):,} documents, the longest of {int(lengths.max()):,}"
    sets = f"too little for sequences of {context} in three sets of whole documents"
    remedy = "give more text, more and shorter documents (--document-mark divides a file), or a smaller --context"
    return ConfigError("data", corpus.name, f"{arrived}: {sets}; {remedy}")
