"""What the operators must compute, written as float64 loops that a reader can check against the paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# One rounding of the result to its own type.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@dataclass(frozen=True)
class Surgery:
    flat: np.ndarray
    raw: int
    applied: int
    is_decidable: bool  # no dot product so close to zero that float64 cannot tell its sign


def pcgrad(rows: np.ndarray, order: np.ndarray, *, tau: float = 0.0, weights: np.ndarray | None = None) -> Surgery:
    """Algorithm 1 of arXiv 2001.06782: each gradient against the others' originals."""
    rows = rows.astype(np.float64)
    lengths = np.sqrt((rows * rows).sum(axis=1))
    k = len(rows)
    applied, is_decidable = 0, True
    total = np.zeros(rows.shape[1])
    for i in range(k):
        projected = rows[i].copy()
        for j in order[i]:
            if j == i or lengths[j] == 0:
                continue
            dot = projected @ rows[j]
            scale = lengths[i] * lengths[j]
            is_decidable &= abs(dot + tau * scale) > 1e-13 * scale
            if dot < 0 and dot < -tau * scale:
                projected -= dot / lengths[j] ** 2 * rows[j]
                applied += 1
        total += projected * (1.0 if weights is None else weights[i])
    products = rows @ rows.T
    raw = sum(
        bool(products[i, j] < 0 and products[i, j] < -tau * lengths[i] * lengths[j])
        for i in range(k)
        for j in range(i + 1, k)
    )
    return Surgery(total, raw, applied, is_decidable)


def random_order(k: int, device: torch.device | str = "cpu", seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(k, generator=generator) for _ in range(k)]).to(device)


def blend(host: Tensor, seed: Tensor, e: Tensor, *, convex: bool) -> Tensor:
    """`e` broadcasts against host; both ends are selections, so that a NaN on the unused side cannot pass."""
    host, seed, e = host.double(), seed.double(), e.double()
    value = (1 - e) * host + e * seed if convex else host + e * seed
    value = torch.where(e == 0, host, value)
    return torch.where(e == 1, seed, value) if convex else value


def relative_error(value: Tensor, expected: Tensor, *, scale: float = 0.0) -> float:
    """Largest error over the largest expected magnitude, or over `scale` where that is larger."""
    if value.numel() == 0:
        return 0.0
    error = (value.double().cpu() - expected.double().cpu()).abs().max()
    return float(error) / max(float(expected.double().abs().max()), scale, 1e-300)
