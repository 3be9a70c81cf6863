"""The judging set in parts that evaluations score in turn: a look then costs one evaluation of all of it.

Parts have no document in common, so that their errors are independent, and are passed with as many rows each: to a
compiled network another number of rows is another graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_DOCUMENTS = 2
"""That a part needs to have an error."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the parts."""

    number: int
    rows: Tensor
    """Of the judging set, rising: int64 [n]."""
    size: int
    """Rows of the largest part."""

    @property
    def padded(self) -> Tensor:
        """The rows, and one of them again until they are as many as in the largest part: [size]."""
        return torch.cat((self.rows, self.rows[:1].expand(self.size - len(self.rows))))


def part_of(documents: Tensor | None, number: int, parts: int) -> Part | None:
    """The number-th part of so many, of samples that are of these documents [n].

    None where it has to be all of it: samples are of no documents, or of too few for each part to have an error.
    """
    if documents is None or len(torch.unique(documents)) < LEAST_DOCUMENTS * parts:
        return None
    names, place, counts = torch.unique(documents, return_inverse=True, return_counts=True)
    sizes, owner = [0] * parts, torch.empty(len(names), dtype=torch.int64)
    # Documents in the order of their size, each into the part that is the smallest by then.
    for document in counts.argsort(descending=True, stable=True).tolist():
        smallest = sizes.index(min(sizes))
        owner[document] = smallest
        sizes[smallest] += int(counts[document])
    return Part(number, (owner[place] == number).nonzero().flatten(), max(sizes))
