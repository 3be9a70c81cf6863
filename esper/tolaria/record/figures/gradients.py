"""What seeds ask of the gradient over an epoch's measured steps: plain figures, and what is remembered of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from esper.core.lasted import lasted_ms


class Blended(NamedTuple):
    """Weights that a blend gives its seed: one, or one for each channel or sample."""

    mean: float
    p95: float
    sparsity: float
    """Share of zeros."""
    clamped_fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedGradient:
    """One seed, in means over its measured steps."""

    seed_id: str
    steps: int
    weight: float
    """By which surgery weighs it; 1 where there is none."""
    norm: float
    """Of its slice and of what it pulls at in the host."""
    share: float
    """Its norm in the sum of all, the host's included."""
    blended: Blended
    parameters: int
    mask_fraction: float
    """Its own parameters in all that learn."""
    conflicts: float | None
    """Steps and others that pull the host the other way; None where nobody looked."""
    conflict_ratio: float | None
    """Their share."""
    teacher_share: float | None
    """What it pulls at in the host, in the sum of what all do; None where nobody looked."""
    layers: tuple[tuple[str, float], ...]
    """The parameters that it pulls at most, and how much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedTold:
    """A seed's figures, with what the last ones and its stage make of them."""

    gradient: SeedGradient
    stage: str
    share_delta: float | None
    """Change of the share; None the first time, and where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregation:
    """How a step's gradient came together, over an epoch; None where there is nothing to tell."""

    microbatches: int
    """Of the run so far."""
    is_surgical: bool
    """Whether conflicts are projected out."""
    conflicts: float | None
    """Pairs of sources in conflict, over all steps."""
    conflict_ratio: float | None
    """Their share of all pairs."""
    hook_ms: float | None
    """Own work at a boundary, without waiting and directives."""
    seeds: Sequence[SeedTold] = ()

    @property
    def weights_mean(self) -> float | None:
        """Of the seeds' weights."""
        return _mean([seed.gradient.weight for seed in self.seeds])

    @property
    def teacher_share(self) -> float | None:
        """The host's own part in what all pull at; None where nobody looked."""
        parts = [part for seed in self.seeds if (part := seed.gradient.teacher_share) is not None]
        return 1.0 - sum(parts) if parts else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is worth a warning."""

    conflict_ratio: float = 0.5
    share_jump: float = 0.3
    hook_ms: float = 50.0
    epoch_ms: float | None = None


class Warned(NamedTuple):
    """Something that has passed its limit."""

    name: str
    message: str
    facts: Mapping[str, str | float]


CONFLICT, JUMP, HOOK = "seed_conflict_high", "seed_share_jump", "epoch_hook_latency_high"
EPOCH = "tolaria.epoch_budget_exceeded"
MIN_STEPS = 4
"""Measured steps of a seed by which it is judged."""
CALM = 0.8
"""Of the limit of conflicts: below it a seed that was told may be told again, so one that stays about there isn't."""


@dataclass(slots=True)
class GradientWatch:
    """What is remembered of the seeds' figures: part of every checkpoint."""

    shares: dict[str, float] = field(default_factory=dict)
    """By seed, when it last had one: one that is paused or at alpha 0 has none."""
    high: list[str] = field(default_factory=list)
    """Seeds whose conflicts were told, and have not become calm since."""
    is_slow: bool = False
    """Whether the boundaries' work was told, likewise."""
    is_long: bool = False
    """Whether an epoch's time was told, likewise."""

    def with_past(self, found: Sequence[SeedGradient], stages: Mapping[str, str]) -> list[SeedTold]:
        """The figures beside the last ones, which they replace; seeds that are gone are forgotten."""
        told = [
            SeedTold(gradient=each, stage=stages.get(each.seed_id, ""), share_delta=self._delta(each)) for each in found
        ]
        if found:
            self.shares = {each.seed_id: share for each in found if (share := self._share(each))}
        return told

    def _share(self, found: SeedGradient) -> float:
        """That of now, or the last one of a seed that has none now; 0 where there never was one."""
        return found.share or self.shares.get(found.seed_id, 0.0)

    def _delta(self, found: SeedGradient) -> float | None:
        return found.share - self.shares[found.seed_id] if found.share and found.seed_id in self.shares else None

    def warnings(self, told: Aggregation, limits: Limits, epoch_ms: float) -> Iterator[Warned]:
        """What has passed its limit since it was last below, in an epoch that took so long."""
        for seed in told.seeds:
            yield from self._of_seed(seed, limits)
        if told.hook_ms is not None:
            if told.hook_ms > limits.hook_ms and not self.is_slow:
                took = f"took {lasted_ms(told.hook_ms)} in the last epoch"
                message = f"a boundary's own work {took}, above {lasted_ms(limits.hook_ms)}"
                yield Warned(HOOK, message, {"latency_ms": told.hook_ms})
            self.is_slow = told.hook_ms > limits.hook_ms
        longest_ms = math.inf if limits.epoch_ms is None else limits.epoch_ms
        is_long = epoch_ms > longest_ms
        if is_long and not self.is_long:
            message = f"the last epoch took {lasted_ms(epoch_ms)}, above {lasted_ms(longest_ms)}"
            yield Warned(EPOCH, message, {"latency_ms": epoch_ms})
        self.is_long = is_long

    def _of_seed(self, seed: SeedTold, limits: Limits) -> Iterator[Warned]:
        found, seed_id = seed.gradient, seed.gradient.seed_id
        if found.steps < MIN_STEPS:
            return
        facts = {"seed_id": seed_id, "stage": seed.stage}
        ratio, delta = found.conflict_ratio, seed.share_delta
        if ratio is not None:
            if ratio >= limits.conflict_ratio and seed_id not in self.high:
                self.high.append(seed_id)
                message = (
                    f"seed {seed_id} pulls the host against the others in {ratio:.0%} of the measured steps, "
                    f"at least {limits.conflict_ratio:.0%}"
                )
                yield Warned(CONFLICT, message, {**facts, "conflict_ratio": ratio})
            elif ratio < CALM * limits.conflict_ratio and seed_id in self.high:
                self.high.remove(seed_id)
        if delta is not None and abs(delta) >= limits.share_jump:
            message = (
                f"seed {seed_id}'s share of the gradient went from {found.share - delta:.0%} to {found.share:.0%}, "
                f"by at least {limits.share_jump:.0%}"
            )
            yield Warned(JUMP, message, {**facts, "share": found.share, "share_delta": delta})

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"shares": dict(self.shares), "high": list(self.high), "is_slow": self.is_slow, "is_long": self.is_long}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
