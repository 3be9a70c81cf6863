"""What a run's slot says of its blocks is counted as the model calls them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.executor.stack_slots import find_stacks


class Caching(nn.Module):
    """A block that keeps what it has read in a cache of the pass, and reads all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor, cache: dict[nn.Module, list[Tensor]]) -> Tensor:
        seen = cache.setdefault(self, [])
        seen.append(x)
        out: Tensor = x + self.act(self.fc(torch.cat(seen, 1)))
        return out


class CachingHost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Caching(), Caching()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        cache: dict[nn.Module, list[Tensor]] = {}
        for block in self.blocks:
            x = block(x, cache)
        out: Tensor = self.head(x)
        return out


def test_the_work_of_a_block_with_a_cache_is_that_of_one_call() -> None:
    host = CachingHost()
    (slot,), refusals = find_stacks(host, torch.randn(4, 3, 8), named=None)
    assert refusals == []
    assert (slot.block_forward_macs, slot.features, slot.positions) == (3 * 8 * 8, 8, 3)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in host.modules())
