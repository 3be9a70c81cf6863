"""Joined tensors keep each block's rows together."""

from __future__ import annotations

import torch

from esper.kasmina.executor.slots.joining import joined


def test_each_block_has_the_hosts_rows_and_then_the_seeds():
    host, seed = torch.tensor([0, 1, 10, 11]), torch.tensor([2, 12])
    assert joined(host, seed, 0).tolist() == [0, 1, 10, 11, 2, 12]
    assert joined(host, seed, 0, blocks=2).tolist() == [0, 1, 2, 10, 11, 12]
    both = joined(host.view(1, 4).double(), seed.view(1, 2), 1, blocks=2)
    assert both.dtype == torch.float64
    assert both.tolist() == [[0, 1, 2, 10, 11, 12]]


def test_channels_last_stays_so():
    host = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert joined(host, torch.ones(1, 3, 4, 4), 0).is_contiguous(memory_format=torch.channels_last)
