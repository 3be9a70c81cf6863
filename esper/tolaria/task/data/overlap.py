"""Samples that stand in two sets: what is held out is then known by heart, and accuracies say nothing.

Inputs are compared by 64-bit hashes of their bytes, so a set costs 8 bytes a sample, however large samples are.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, uint8

from esper.tolaria.task.data.source import Splits

BYTES_AT_ONCE = 2**24


def overlaps(splits: Splits) -> list[str]:
    """A line for each pair of sets with samples of the same inputs; none for a stream, whose documents are disjoint."""
    if splits.stream is not None:
        return []
    hashes = {name: _hashes(split.inputs) for name, split in splits.named()}
    lines = []
    for first, second in combinations(hashes, 2):
        shared = int(np.isin(hashes[second], hashes[first]).sum())
        if shared:
            lines.append(f"{shared:,} of {len(hashes[second]):,} {second} samples also stand in {first}")
    return lines


def _hashes(inputs: Tensor) -> NDArray[np.int64]:
    """A hash of each row's bytes; only those of one process can be compared."""
    hashes = np.empty(len(inputs), dtype=np.int64)
    size = inputs[0].numel() * inputs.element_size()
    rows = max(1, BYTES_AT_ONCE // size)
    for start in range(0, len(inputs), rows):
        part = inputs[start : start + rows].cpu().contiguous().view(len(inputs[start : start + rows]), -1)
        content = part.view(uint8).numpy().view(f"V{size}").ravel().tolist()
        hashes[start : start + rows] = [hash(row) for row in content]
    return hashes
