"""Passes over many batches that the ranks share, so that an evaluation takes each of them a part of the time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from esper.kasmina.executor.passes.batches import Batch
from esper.tolaria.ranks.group import Ranks


def over(batches: Iterable[Batch], measure: Callable[[Batch], Tensor], ranks: Ranks) -> list[Tensor]:
    """What `measure` makes of each batch, in order: float64 [any] each, on the CPU where many ranks share them.

    Each batch is passed by one rank and told to all. Sums with zeros are exact, so that every rank comes to the numbers
    of a process that passes them all. All ranks must come here at the same moment, with as many batches.
    """
    if ranks.count == 1:
        return [measure(batch) for batch in batches]
    own, count = {}, 0
    for count, batch in enumerate(batches, 1):
        if count % ranks.count == (ranks.rank + 1) % ranks.count:
            own[count - 1] = measure(batch)
    sizes = torch.zeros(count, dtype=torch.int64)
    for number, part in own.items():
        sizes[number] = len(part)
    ranks.total(sizes)
    told = torch.zeros(int(sizes.sum()), dtype=torch.float64)
    parts = list(torch.split(told, sizes.tolist()))
    for number, part in own.items():
        parts[number].copy_(part)
    ranks.total(told)
    return parts


def names_of_first(names: list[str], ranks: Ranks) -> list[str]:
    """The first rank's, which always passes a batch; one that had none to pass knows no names."""
    return names if ranks.count == 1 else list(json.loads(ranks.told(json.dumps(names).encode())))
