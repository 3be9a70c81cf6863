"""A rank's own samples of a batch that all ranks hold: by the seed, the step and the rank alone."""

from __future__ import annotations

from dataclasses import dataclass

from esper.kasmina.executor.passes.batches import Batch, cut, samples_in

LEAST_SAMPLES = 2
"""A BatchNorm has no statistics of a single sample."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a rank passes; where a batch has too few samples for all, some pass others' for nothing."""

    batch: Batch
    counts: bool
    """Whether its gradient counts. One that doesn't is passed all the same: all ranks reduce the same parameters."""


def piece_of(batch: Batch, rank: int, count: int) -> Piece:
    """The rank's part of the batch."""
    parts = cut(batch, min(count, max(1, samples_in(batch[0]) // LEAST_SAMPLES)))
    return Piece(parts[rank % len(parts)], counts=rank < len(parts))
