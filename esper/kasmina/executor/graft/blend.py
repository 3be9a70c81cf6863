"""How a seed's output joins the host's: the course of alpha, and the compiled operator of each mode.

    RESIDUAL     h + a s                     CHANNEL      e = clamp(a v, 0, 1) per channel: (1-e) h + e s
    CONVEX       (1-a) h + a s               CONFIDENCE   e = clamp(a g, lo, hi) per sample: (1-e) h + e s

In training the host's activation is never detached: a blend that does that starves the host. Only a shadow pass, from
which the host learns nothing anyway, sets `is_isolated`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.core.errors import GraftFailed
from esper.kernels import (
    ConfidenceGate,
    blend_channel,
    blend_confidence,
    blend_convex,
    blend_residual,
    blend_stats,
    confidence_gate,
)
from esper.leyline import BlendConfig, BlendFigures, BlendMode, BlendSchedule, ConfidenceKind

SIGMOID_REACH = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """A blend configuration that begins at a step; steps count those done before."""

    config: BlendConfig
    start_step: int

    def __post_init__(self) -> None:
        if problem := _problem(self.config):
            raise GraftFailed(f"blend refused: {problem}")

    @property
    def mode(self) -> BlendMode:
        return self.config.mode

    def alpha_at(self, step: int) -> float:
        """Alpha of the step that follows `step` done ones."""
        if self.config.schedule == BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD:
            return self.config.alpha_target
        course = COURSES[self.config.schedule](self._progress(step))
        return self.config.alpha_start + (self.config.alpha_target - self.config.alpha_start) * course

    def rate_factor_at(self, step: int) -> float:
        """Share of the host's learning rate that the seed gets: warm-up, then 1."""
        if self.config.schedule != BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD or self.is_done(step):
            return 1.0
        return (step - self.start_step + 1) / (self.config.schedule_steps + 1)

    def is_done(self, step: int) -> bool:
        return step - self.start_step >= self.config.schedule_steps

    def _progress(self, step: int) -> float:
        if self.is_done(step):
            return 1.0
        return max(0, step - self.start_step) / self.config.schedule_steps


def _sigmoid(progress: float) -> float:
    low, high = (1 / (1 + math.exp(-edge)) for edge in (-SIGMOID_REACH, SIGMOID_REACH))
    value = 1 / (1 + math.exp(-SIGMOID_REACH * (2 * progress - 1)))
    return (value - low) / (high - low)


COURSES: dict[int, Callable[[float], float]] = {
    BlendSchedule.BLEND_SCHEDULE_LINEAR: lambda progress: progress,
    BlendSchedule.BLEND_SCHEDULE_SIGMOID: _sigmoid,
    BlendSchedule.BLEND_SCHEDULE_COSINE: lambda progress: (1 - math.cos(math.pi * progress)) / 2,
    BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD: lambda progress: 1.0,
}


def _problem(config: BlendConfig) -> str:
    """What is wrong with the configuration, in words; empty if nothing is."""
    if config.mode not in JOINS:
        return f"unknown mode {config.mode}"
    if config.schedule not in COURSES:
        return f"unknown schedule {config.schedule}"
    for name in ("alpha_target", "alpha_start", "schedule_steps"):
        if not config.HasField(name):
            return f"{name} is missing"
    if not (0.0 <= config.alpha_target <= 1.0 and 0.0 <= config.alpha_start <= 1.0):
        return f"alpha runs from {config.alpha_start} to {config.alpha_target}, expected values in 0..1"
    if config.mode == BlendMode.BLEND_MODE_CHANNEL:
        return _channel_problem(list(config.alpha_vec))
    if config.mode == BlendMode.BLEND_MODE_CONFIDENCE:
        return _confidence_problem(config)
    return ""


def _channel_problem(shares: list[float]) -> str:
    if not 1 <= len(shares) <= 64:
        return f"alpha_vec has {len(shares)} entries, expected 1 to 64"
    return "" if all(0.0 <= share <= 1.0 for share in shares) else "alpha_vec has entries outside 0..1"


def _confidence_problem(config: BlendConfig) -> str:
    if config.confidence not in CONFIDENCES:
        return f"unknown confidence {config.confidence}"
    if not config.gate_slope > 0.0 or not 0.0 <= config.gate_threshold <= 1.0:
        return f"gate slope {config.gate_slope} and threshold {config.gate_threshold}, expected > 0 and 0..1"
    low, high = share_bounds(config)
    return "" if 0.0 <= low <= high <= 1.0 else f"shares from {low} to {high}, expected 0 <= min <= max <= 1"


CONFIDENCES = {
    ConfidenceKind.CONFIDENCE_KIND_MARGIN: "margin",
    ConfidenceKind.CONFIDENCE_KIND_ENTROPY: "entropy",
}


def share_bounds(config: BlendConfig) -> tuple[float, float]:
    """Smallest and largest share of a confidence blend."""
    return config.share_min, config.share_max if config.HasField("share_max") else 1.0


def gate_from_logits(config: BlendConfig, logits: object) -> ConfidenceGate:
    """One gate per sample from the host's logits; anything but [samples, classes] is refused."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.size(1) < 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise GraftFailed(f"a confidence blend needs logits [samples, classes]; the host gives {shape}")
    kind = CONFIDENCES[config.confidence]
    return confidence_gate(logits, k=config.gate_slope, tau=config.gate_threshold, kind=kind)  # type: ignore[arg-type]


@dataclass(slots=True)
class JoinState:
    """What a join needs beside the two values, on the host's device."""

    alpha: Tensor
    shares: Tensor | None
    gate: Tensor | None
    channel_dim: int
    bounds: tuple[float, float]
    is_isolated: bool = False
    gateless: Tensor | None = None
    """Samples of the last batch without a confidence: int64, 0-d."""

    def figures(self) -> BlendFigures:
        """The weights of now, with one transfer from the device."""
        weights, (low, high) = self.gate if self.gate is not None else self.shares, self.bounds
        measured = [*blend_stats(self.alpha, weights, lo=low, hi=high)]
        if self.gate is not None and self.gateless is not None:
            measured += [self.gate.mean(), self.gateless.float()]
        mean, p95, sparsity, clamped, *gate = torch.stack(measured).tolist()
        return BlendFigures(
            alpha_mean=mean,
            alpha_p95=p95,
            sparsity=sparsity,
            clamped_fraction=clamped,
            gate_mean=gate[0] if gate else None,
            gateless_samples=int(gate[1]) if gate else None,
        )


def join_state(config: BlendConfig, *, is_conv: bool, device: torch.device) -> JoinState:
    shares = torch.tensor(list(config.alpha_vec), device=device) if config.alpha_vec else None
    return JoinState(
        alpha=torch.tensor(config.alpha_start, dtype=torch.float32, device=device),
        shares=shares,
        gate=None,
        channel_dim=1 if is_conv else -1,
        bounds=share_bounds(config),
    )


def _residual(host: Tensor, seed: Tensor, state: JoinState) -> Tensor:
    return blend_residual(host, seed, state.alpha, isolate=state.is_isolated)


def _convex(host: Tensor, seed: Tensor, state: JoinState) -> Tensor:
    return blend_convex(host, seed, state.alpha, isolate=state.is_isolated)


def _channel(host: Tensor, seed: Tensor, state: JoinState) -> Tensor:
    if state.shares is None:
        raise GraftFailed("a channel blend has no shares")
    return blend_channel(host, seed, state.shares, state.alpha, dim=state.channel_dim, isolate=state.is_isolated)


def _confidence(host: Tensor, seed: Tensor, state: JoinState) -> Tensor:
    if state.gate is None:
        raise GraftFailed("a confidence blend has no logits for this batch")
    low, high = state.bounds
    return blend_confidence(host, seed, state.gate, state.alpha, lo=low, hi=high, isolate=state.is_isolated)


JOINS: dict[int, Callable[[Tensor, Tensor, JoinState], Tensor]] = {
    BlendMode.BLEND_MODE_RESIDUAL: _residual,
    BlendMode.BLEND_MODE_CONVEX: _convex,
    BlendMode.BLEND_MODE_CHANNEL: _channel,
    BlendMode.BLEND_MODE_CONFIDENCE: _confidence,
}
