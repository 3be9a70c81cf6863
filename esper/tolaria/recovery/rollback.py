"""Going back to an older state of a run: from memory where it is there in time, else from the disk.

Each tier has a deadline of its own, and of many ranks all go back or none. Until a tier's state is whole and verified
the present one is untouched, and the restore can be given up; then it is put in place on the training thread, and
nothing breaks that off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from esper.core.clock import Clock
from esper.core.errors import EsperError, RankLost, RollbackFailed, RollbackLate
from esper.kasmina.executor import SeedExecutor
from esper.kasmina.executor.memory.free import host_memory
from esper.tolaria.config import TrainConfig
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.record.observer import RollbackFigures
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.recovery.tiers.deadline import Deadline
from esper.tolaria.recovery.tiers.fast import FastTier
from esper.tolaria.recovery.tiers.full import FullTier
from esper.tolaria.recovery.tiers.placing import placed

Tier = FastTier | FullTier
Load = Callable[[Snapshot], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a state came from, what failed before it, and whether it was loaded later than its deadline allows."""

    tier: str
    failures: list[EsperError]
    late: RollbackLate | None


class Rollback:
    """Both tiers of a run, and what became of its restores."""

    def __init__(
        self,
        store: CheckpointStore | None,
        clock: Clock,
        config: TrainConfig,
        ranks: Ranks = ALONE,
        *,
        in_parts: bool = False,
    ) -> None:
        self._ranks = ranks
        self.fast = FastTier(config.rollback_fast_deadline_s, partial(_host_share, ranks.local_count))
        self.full = FullTier(store, config.rollback_full_deadline_s, ranks, in_parts=in_parts)
        self._tiers: tuple[Tier, ...] = (self.fast, self.full)
        self.figures = RollbackFigures()
        self._clock = clock

    def restore(self, bounds: tuple[int | None, ...], executor: SeedExecutor, load: Load) -> Restored:
        """Load the newest state within the first bound that has one.

        Raises RollbackLate where nothing came in time, and RollbackFailed for all else.
        """
        began_ns, failures = self._clock.monotonic_ns(), list[EsperError]()
        for step, tier in next(filter(None, map(self._order, bounds)), []):
            try:
                late = self._restore(tier, step, executor, load)
            except EsperError as error:
                failures.append(error)
                continue
            missed = failures if late is None else [*failures, late]
            self._note(tier, missed, (self._clock.monotonic_ns() - began_ns) / 1e6)
            return Restored(tier.name, failures, late)
        self._note(None, failures)
        too_late = [failure for failure in failures if isinstance(failure, RollbackLate)]
        if too_late:
            raise too_late[-1]
        raise RollbackFailed("; ".join(map(str, failures)) or "nothing to go back to: no state was kept yet")

    def _restore(self, tier: Tier, step: int, executor: SeedExecutor, load: Load) -> RollbackLate | None:
        """Load a tier's state; what was loaded too late is as good as any, but that is said.

        Of many ranks each reads, and none loads before all have: the state of all is one moment's.
        """
        deadline = Deadline(self._clock, tier.name, tier.deadline_s)
        snapshot, failure = self._read(tier, step, deadline)
        if self._ranks.any(failure is not None) or snapshot is None:
            raise failure or RollbackFailed(f"another rank has no state in {tier.name} to go back to, or not in time")
        load(placed(snapshot, executor))
        if executor.arm.device.type == "cuda":
            torch.cuda.synchronize(executor.arm.device)
        return deadline.late() if deadline.is_missed else None

    def _read(self, tier: Tier, step: int, deadline: Deadline) -> tuple[Snapshot | None, EsperError | None]:
        try:
            snapshot = tier.read(step, deadline)
            deadline.check()  # for the last time
        except RankLost:
            raise
        except EsperError as error:
            return None, error
        return snapshot, None

    def _common(self, tier: Tier, bound: int | None) -> int | None:
        """Step of the newest state that all ranks have there."""
        while True:
            own = tier.newest(bound)
            oldest = torch.tensor([-1 if own is None else own])
            self._ranks.largest(oldest.neg_())
            bound = -int(oldest)
            if bound < 0 or not self._ranks.any(own != bound):
                return None if bound < 0 else bound

    def _order(self, bound: int | None) -> list[tuple[int, Tier]]:
        """The tiers that have something, with its step: the newer first, and memory where they are equal."""
        steps = [(self._common(tier, bound), tier) for tier in self._tiers]
        there = [(step, tier) for step, tier in steps if step is not None]
        return sorted(there, key=lambda found: -found[0])

    def _note(self, hit: Tier | None, failures: list[EsperError], latency_ms: float | None = None) -> None:
        before, is_fast = self.figures, hit is self.fast
        self.figures = replace(
            before,
            fast_hits=before.fast_hits + is_fast,
            fast_misses=before.fast_misses + (not is_fast),
            failures=before.failures + (hit is None),
            deadline_exceeded=before.deadline_exceeded + sum(isinstance(each, RollbackLate) for each in failures),
            restore_latency_ms=before.restore_latency_ms if latency_ms is None else latency_ms,
        )


def _host_share(ranks: int) -> int | None:
    """Host memory that is free, for each of a machine's ranks."""
    free = host_memory().size_bytes
    return None if free is None else free // ranks
