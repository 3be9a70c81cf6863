"""How sure a model is of each sample, and what a blend's weights look like: both from one pass, left on the device."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from esper.kernels._library import fake, operator

_confidence_gate = operator("confidence_gate")
_blend_stats = operator("blend_stats")


class ConfidenceGate(NamedTuple):
    """Per sample, float32. `events` counts samples without a confidence (one class, NaN): their gate is 0."""

    gate: Tensor
    margin: Tensor
    log_sum_exp: Tensor
    entropy: Tensor
    events: Tensor


class BlendStats(NamedTuple):
    """Over the weights of one blend, float32, 0-d."""

    mean: Tensor
    p95: Tensor
    sparsity: Tensor
    clamped_fraction: Tensor


def confidence_gate(
    logits: Tensor, *, k: float = 4.0, tau: float = 0.2, kind: Literal["margin", "entropy"] = "margin"
) -> ConfidenceGate:
    """`sigmoid(k * (m - tau))` per row of `[samples, classes]`, detached.

    m is the distance between the two largest probabilities, or 1 - entropy / log(classes).
    """
    if kind not in ("margin", "entropy"):
        raise RuntimeError(f"kind is {kind!r}, expected 'margin' or 'entropy'")
    gate, statistics, events = _confidence_gate(
        logits.detach() if logits.requires_grad else logits, k, tau, kind == "entropy"
    )
    margin, log_sum_exp, entropy = statistics.unbind(1)
    return ConfidenceGate(gate, margin, log_sum_exp, entropy, events)


def blend_stats(alpha: Tensor, gate: Tensor | None = None, *, lo: float = 0.0, hi: float = 1.0) -> BlendStats:
    """Mean, 95th percentile (nearest rank), share of zeros and share clamped of the weights a blend would use."""
    stats = _blend_stats(alpha.detach(), None if gate is None else gate.detach(), lo, hi)
    mean, p95, sparsity, clamped_fraction = stats.unbind()
    return BlendStats(mean, p95, sparsity, clamped_fraction)


@fake("confidence_gate")
def _confidence_gate_fake(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    if logits.dim() != 2:
        raise RuntimeError(f"logits has shape {list(logits.shape)}, expected [samples, classes]")
    rows = logits.size(0)
    return (
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty((rows, 3), dtype=torch.float32),
        logits.new_empty((), dtype=torch.int64),
    )


@fake("blend_stats")
def _blend_stats_fake(alpha: Tensor, *_: Any) -> Tensor:
    return alpha.new_empty(4, dtype=torch.float32)
