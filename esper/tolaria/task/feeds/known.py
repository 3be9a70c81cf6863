"""Training samples that also stand in a set that is held out, as far as the first training batches show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from esper.kasmina.executor.passes.batches import Batch, leaves, samples_in


def known_samples(train: Iterable[Batch], judge: Sequence[Batch], test: Sequence[Batch]) -> list[str]:
    """A line for each held set with inputs that are trained on, too: its figures then say nothing."""
    first = set(_hashes(train))
    held = {"judge": judge} if test is judge else {"judge": judge, "test": test}
    lines = []
    for name, part in held.items():
        if shared := len(first & set(_hashes(part))):
            lines.append(f"{shared:,} of the first {len(first):,} train samples also stand in {name}")
    return lines


def _hashes(batches: Iterable[Batch]) -> Iterator[int]:
    return (hash(row) for inputs, _ in batches for row in _rows(inputs))


def _rows(inputs: Any) -> Iterator[tuple[bytes, ...]]:
    """The bytes of each sample; what all samples share is left out."""
    samples = samples_in(inputs)
    own = [tensor.detach().cpu() for tensor in leaves(inputs) if tensor.ndim and len(tensor) == samples]
    parts = [tensor.reshape(samples, -1).contiguous().view(torch.uint8).numpy() for tensor in own]
    return (tuple(part[row].tobytes() for part in parts) for row in range(samples))
