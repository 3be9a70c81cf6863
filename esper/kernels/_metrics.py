"""Lengths, inner products and shares of seeds' gradients, per layer and in all, from one read of the rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from esper.kernels._library import fake, operator, refuse_gradients

_seed_metrics = operator("seed_metrics")


class SeedMetrics(NamedTuple):
    """float64, on the rows' device."""

    layer_norms: Tensor  # [seeds, layers]
    dots: Tensor  # [seeds, seeds]
    norms: Tensor  # [seeds]
    shares: Tensor  # [seeds]: own norm over the sum of norms


def seed_metrics(rows: Tensor, offsets: Tensor) -> SeedMetrics:
    """`rows` is `[seeds, N]`; layer l spans elements offsets[l] to offsets[l + 1], an int64 tensor from 0 to N."""
    refuse_gradients([rows], "seed_metrics")
    layer_norms, dots, shares = _seed_metrics(rows, offsets)
    return SeedMetrics(layer_norms, dots, dots.diagonal().sqrt(), shares)


@fake("seed_metrics")
def _seed_metrics_fake(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    seeds = rows.size(0)
    return (
        rows.new_empty((seeds, offsets.size(0) - 1), dtype=torch.float64),
        rows.new_empty((seeds, seeds), dtype=torch.float64),
        rows.new_empty(seeds, dtype=torch.float64),
    )
