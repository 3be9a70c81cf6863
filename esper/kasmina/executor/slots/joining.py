"""Two tensors as one along a dimension, also where several blocks lie in it of which each becomes longer."""

from __future__ import annotations

import torch
from torch import Tensor


def joined(host: Tensor, seed: Tensor, dim: int, blocks: int = 1) -> Tensor:
    """The host's values and the seed's, block by block, in the host's type and memory layout."""
    both = torch.cat([host, seed.to(host.dtype)], dim)
    if blocks > 1:
        both = both.index_select(dim, order_of(host.shape[dim], seed.shape[dim], blocks, both.device))
    is_channels_last = (
        host.dim() == 4 and not host.is_contiguous() and host.is_contiguous(memory_format=torch.channels_last)
    )
    return both.contiguous(memory_format=torch.channels_last) if is_channels_last else both


def order_of(host: int, seed: int, blocks: int, device: torch.device | None = None) -> Tensor:
    """Where each row comes from in the host's rows followed by the seed's: in each block the host's part goes first."""
    places = torch.arange(host).view(blocks, -1), host + torch.arange(seed).view(blocks, -1)
    return torch.cat(places, 1).flatten().to(device)
