"""A rank's rows of a tensor in a saved state, and what the tensor is as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
ROWS, SHAPE, TYPE = "rows of a whole", "shape", "dtype"


def in_parts(rows: Tensor, shape: torch.Size) -> State:
    """Rows as they stand in a state, in plain containers."""
    return {ROWS: rows, SHAPE: list(shape)}


def told_of(value: State) -> State:
    """The same without the rows, for a checkpoint's file."""
    return {ROWS: None, SHAPE: value[SHAPE], TYPE: str(value[ROWS].dtype).removeprefix("torch.")}


def is_in_parts(value: Any) -> bool:
    """Whether a state holds a tensor's rows here, or that there are some on the disk."""
    return isinstance(value, dict) and ROWS in value


def shape_of(value: State) -> torch.Size:
    """Of the whole."""
    return torch.Size(value[SHAPE])


def dtype_of(value: State) -> torch.dtype:
    """Of one whose rows are on the disk."""
    found: torch.dtype = getattr(torch, value[TYPE])
    return found


def share_of(length: int, rank: int, count: int) -> tuple[int, int]:
    """First and last (not included) of a rank's rows, as fully_shard shares them out."""
    most = -(-length // count)
    return min(rank * most, length), min((rank + 1) * most, length)
