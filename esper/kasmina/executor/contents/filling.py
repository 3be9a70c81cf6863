"""Fills tensors by others in groups: Python and the device are asked once a group, not once a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

PIECE_BYTES = 16 * 2**20
"""Of a group, and of a part of a larger tensor."""
Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def fill(pairs: Sequence[Pair]) -> None:
    """Fill each first tensor by its second, of the same shape; what goes to or from a GPU may still be on its way."""
    for group in _groups(pairs):
        targets, sources = [target for target, _ in group], [source for _, source in group]
        torch._foreach_copy_(targets, sources, non_blocking=any(each.is_cuda for each in (targets[0], sources[0])))


def _groups(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Of no more bytes than a piece each; what is larger by itself is cut, where it stands in one row."""
    group, left, places = list[Pair](), PIECE_BYTES, None
    for target, source in pairs:
        size, between = source.nbytes, (target.device, source.device)
        if group and (size > left or places != between):
            yield group
            group, left = [], PIECE_BYTES
        if size > PIECE_BYTES and source.is_contiguous() and target.is_contiguous():
            each = PIECE_BYTES // source.element_size()
            parts = (torch.split(tensor.view(-1), each) for tensor in (target, source))
            yield from ([pair] for pair in zip(*parts, strict=True))
            continue
        group.append((target, source))
        left, places = left - size, between
    if group:
        yield group
