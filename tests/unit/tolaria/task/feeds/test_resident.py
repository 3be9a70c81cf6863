"""Batches that the device gathers are those of the loader, in order or not."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.task.data.source import Split
from esper.tolaria.task.feeds.loader import Loader
from esper.tolaria.task.feeds.resident import Resident


@given(
    samples=st.integers(2, 40),
    size=st.integers(1, 9),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 6)), min_size=1, max_size=5),
)
def test_a_gathered_batch_is_the_loaders(samples: int, size: int, steps: list[tuple[int, int]]) -> None:
    split = Split(torch.randn(samples, 3), torch.arange(samples))
    loader = Loader(split, min(size, samples), seed=5)
    resident = Resident(loader)
    for first, count in steps:
        resident.ahead(first + count // 2)  # right or wrong: what comes decides
        for step in range(first, first + count):
            memory = resident.memory(step)
            resident.place()
            resident.gather(memory)
            for mine, theirs in zip(memory, loader.batch(step), strict=True):
                assert torch.equal(mine, theirs)
            assert resident.memory(step) is memory
