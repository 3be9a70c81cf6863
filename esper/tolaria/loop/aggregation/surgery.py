"""Gradient surgery over a step's microbatches, losses or seeds: each gradient is a row, conflicts are projected out.

Microbatches are weighed by their share of the batch, so that without a conflict the result is the batch's own gradient.
Seeds are held against each other and the host over the host's parameters alone: a seed's own are nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.core.errors import ConfigError
from esper.kernels import MAX_ROWS, GradientPool, gram, pcgrad
from esper.tolaria.loop.aggregation.paths import SourceRows
from esper.tolaria.loop.aggregation.pools import Pools
from esper.tolaria.loop.arm import Arm, Batch
from esper.tolaria.loop.device_timer import DeviceTimer
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.task.device import sent
from esper.tolaria.task.randomness import generator

Pass = Callable[[Arm, Batch, float | Tensor], tuple[Tensor, Tensor | None]]


class GradientSurgery:
    """PCGrad over up to `rows` microbatches of one step."""

    def __init__(self, seed: int, rows: int, timer: DeviceTimer, ranks: Ranks = ALONE) -> None:
        if rows > MAX_ROWS:
            raise ConfigError("accumulate", rows, f"gradient surgery takes at most {MAX_ROWS} microbatches")
        self._seed = seed
        self._timer = timer
        self._ranks = ranks
        self._pools = Pools()
        self._orders: dict[int, Tensor] = {}
        self._step = -1

    def set_step(self, step: int) -> None:
        """Draw the orders of a step, by number of rows, into the memory of the last ones."""
        self._step = step
        for rows, order in self._orders.items():
            drawn = self._drawn(rows)
            order.copy_(drawn.pin_memory() if order.is_cuda else drawn, non_blocking=True)

    def backward(
        self,
        arm: Arm,
        parts: Sequence[Batch],
        step: int,
        one_pass: Pass,
        shares: Sequence[float | Tensor],
        counts: Sequence[float | Tensor],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Leave the de-conflicted gradient in the arm; returns loss, accuracy and the share of pairs in conflict.

        `shares` are those of the parts in the loss of the batch, `counts` those in its accuracy.
        """
        pool = self._pool(arm.optimizer, len(parts))
        losses, hits, was_present = [], [], [False] * len(pool.parameters)
        for row, (part, share, count) in enumerate(zip(parts, shares, counts, strict=True)):
            arm.optimizer.zero_grad(set_to_none=True)
            loss, accuracy = one_pass(arm, part, share)
            losses.append(loss * share)
            if accuracy is not None:
                hits.append(accuracy * count)
            with self._timer.measure():
                was_present = [old or new for old, new in zip(was_present, pool.collect(row), strict=True)]
        with self._timer.measure():
            was_present = self.of_all(pool, was_present)
            conflicts = self._assign(arm, pool, was_present, step)
        pairs = len(parts) * (len(parts) - 1) // 2
        conflict_rate = conflicts / max(1, pairs)
        return torch.stack(losses).sum(), torch.stack(hits).sum() if hits else None, conflict_rate

    def of_losses(self, arm: Arm, losses: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of several losses of one forward pass; returns also the cosines of their gradients."""
        pool = self._pool(arm.optimizer, len(losses))
        was_present = [False] * len(pool.parameters)
        for row, loss in enumerate(losses.values()):
            arm.optimizer.zero_grad(set_to_none=True)
            scaled = loss if arm.scaler is None else arm.scaler.scale(loss)
            scaled.backward(retain_graph=row + 1 < len(losses))  # type: ignore[no-untyped-call]
            with self._timer.measure():
                was_present = [old or new for old, new in zip(was_present, pool.collect(row), strict=True)]
        with self._timer.measure():
            was_present = self.of_all(pool, was_present)
            cosines = _cosines(list(losses), pool.rows)
            conflicts = self._assign(arm, pool, was_present, step)
        return conflicts / (len(losses) * (len(losses) - 1) // 2), cosines

    def of_seeds(self, arm: Arm, sources: SourceRows, step: int, weights: Sequence[float]) -> Tensor:
        """The same of the host and the seeds that its gradient came through; returns the share of pairs in conflict.

        They are held against each other over the host's parameters; a seed's weight counts in its own slice as well.
        """
        pool, rows, columns = sources.pool, sources.rows, sources.host_columns
        weighed = sent(torch.tensor(weights, dtype=torch.float64), rows.device)
        flat = rows.new_empty(rows.size(1))
        result = pcgrad(rows[:, :columns], self._order(pool, step), weights=weighed, out=flat[:columns])
        own = torch.sum(rows[1:, columns:], 0, out=flat[columns:])
        is_void = result.status.any() | ~own.sum().isfinite()
        for view, owner in zip(pool.views(flat), sources.owner_of, strict=True):
            if owner:
                view *= weighed[owner]
        self._give(arm, pool, flat, is_void, sources.was_present)
        return result.conflicts_raw / (len(weights) * (len(weights) - 1) // 2)

    def _assign(self, arm: Arm, pool: GradientPool, was_present: Sequence[bool], step: int) -> Tensor:
        """Give the parameters the projected gradient; one that is not finite makes the step void."""
        result = pcgrad(pool.rows, self._order(pool, step))
        self._give(arm, pool, result.flat, result.status.any(), was_present)
        return result.conflicts_raw

    def _order(self, pool: GradientPool, step: int) -> Tensor:
        """In which each row meets the others."""
        if step != self._step:
            self.set_step(step)
        rows = pool.row_count
        if rows not in self._orders:
            self._orders[rows] = sent(self._drawn(rows), pool.rows.device)
        return self._orders[rows]

    def _drawn(self, rows: int) -> Tensor:
        draws = torch.rand(rows, rows, generator=generator(self._seed, "surgery", self._step))
        return draws.argsort(dim=1)

    def _give(self, arm: Arm, pool: GradientPool, flat: Tensor, is_void: Tensor, was_present: Sequence[bool]) -> None:
        if arm.scaler is not None:
            pool.assign(flat.masked_fill(is_void, float("inf")))
        elif skips_on_device(arm.optimizer, pool.rows.device):
            arm.optimizer.found_inf = is_void.float()  # type: ignore[attr-defined]
            pool.assign(flat.masked_fill(is_void, 0.0))
        elif bool(is_void):
            arm.optimizer.zero_grad(set_to_none=True)
        else:
            pool.assign(flat)
        for parameter, present in zip(pool.parameters, was_present, strict=True):
            if not present:
                parameter.grad = None

    def of_all(self, pool: GradientPool, was_present: list[bool]) -> list[bool]:
        """Rows become those of whole microbatches or losses, of which each rank has passed its own samples."""
        if self._ranks.count == 1:
            return was_present
        for row in pool.rows:
            self._ranks.total(row)
        present = torch.tensor(was_present, dtype=torch.uint8)
        self._ranks.largest(present)
        return list(map(bool, present.tolist()))

    def _pool(self, optimizer: Optimizer, rows: int) -> GradientPool:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        return self._pools.of(optimizer, parameters, rows)


def skips_on_device(optimizer: Optimizer, device: torch.device) -> bool:
    """Whether the optimiser's kernels themselves leave out a void step, so that nobody has to wait for its verdict."""
    return device.type == "cuda" and all(group.get("fused") for group in optimizer.param_groups)


def _cosines(names: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
    """Of each pair of rows, by their names; 0 where one has no length."""
    products = gram(rows)
    lengths = products.diagonal().sqrt()
    found = (products / (lengths[:, None] * lengths).clamp(min=torch.finfo(products.dtype).tiny)).clamp(-1.0, 1.0)
    return {f"cosine {names[i]}, {names[j]}": found[i, j] for i, j in combinations(range(len(names)), 2)}
