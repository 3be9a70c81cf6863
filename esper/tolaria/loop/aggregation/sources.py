"""Seeds as sources: when a step's gradient is split by them, how each is weighed, and who is shown the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.leyline import SeedStage
from esper.tolaria.config import BY_SEEDS, TrainConfig
from esper.tolaria.loop.aggregation.meter import Note, sample_of_gradients, sample_of_rows
from esper.tolaria.loop.aggregation.owners import Owners
from esper.tolaria.loop.aggregation.paths import SeedPaths
from esper.tolaria.loop.aggregation.pools import Pools
from esper.tolaria.loop.aggregation.surgery import GradientSurgery
from esper.tolaria.loop.arm import Arm

Weigh = Callable[[Graft], float]

BLENDING_WEIGHT, SMALLEST_WEIGHT = 0.5, 0.1


class SeedSources:
    """Of the arms that a stepper trains."""

    def __init__(
        self, config: TrainConfig, surgery: GradientSurgery | None = None, weigh: Weigh = lambda graft: 1.0
    ) -> None:
        self.are_seeds = config.pcgrad and config.surgery == BY_SEEDS
        """Whether surgery holds seeds against each other."""
        self._looks = config.seed_conflicts
        self._surgery = surgery
        self._weigh = weigh
        self._pools = Pools()
        self._owners: WeakKeyDictionary[Optimizer, Owners] = WeakKeyDictionary()

    def paths(self, arm: Arm, note: Note | None) -> SeedPaths | None:
        """What splits the gradient of the coming step; None where there are no seeds, or nobody asks."""
        if not getattr(arm, "grafts", ()) or not (self.are_seeds or (self._looks and note is not None)):
            return None
        return SeedPaths(self._owners_of(arm))

    def settle(self, arm: Arm, paths: SeedPaths, step: int, note: Note | None) -> Tensor | None:
        """Note the parts, and put together again what surgery makes of them; returns its conflict rate."""
        owners, surgery = paths.owners, self._surgery if self.are_seeds else None
        pool = self._pools.of(arm.optimizer, owners.parameters, len(owners.grafts) + 1)
        sources = paths.collect(pool, (lambda _, present: present) if surgery is None else surgery.of_all)
        weights = [1.0, *map(self._weigh, owners.grafts)] if surgery is not None else [1.0] * pool.row_count
        if note is not None:
            scale = None if arm.scaler is None else arm.scaler.scale(torch.ones((), device=pool.rows.device))
            note(sample_of_rows(owners, sources, weights, scale))
        return None if surgery is None else surgery.of_seeds(arm, sources, step, weights)

    def measure(self, arm: Arm, note: Note) -> None:
        """Note the gradients that a step has left, each owner's slice."""
        if getattr(arm, "grafts", ()):
            owners = self._owners_of(arm)
            sample = sample_of_gradients(owners, [1.0] * len(owners.spans))
            if sample is not None:
                note(sample)

    def _owners_of(self, arm: Arm) -> Owners:
        known, grown = self._owners.get(arm.optimizer), cast(TrainingArm, arm)
        if known is None or not known.are_of(grown):
            known = self._owners[arm.optimizer] = Owners(grown)
        return known


def weight_of(stage: SeedStage, alpha: float) -> float:
    """A seed's weight by its stage and alpha: half while it is blended in, and half at alpha 0; at least a tenth."""
    of_stage = BLENDING_WEIGHT if stage == SeedStage.SEED_STAGE_BLENDING else 1.0
    return max(SMALLEST_WEIGHT, of_stage * (0.5 + 0.5 * alpha))
