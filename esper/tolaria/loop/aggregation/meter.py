"""What seeds ask of the gradient, added up on the device and read with one transfer an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.passes.statistics import norm_of_each
from esper.kernels import seed_metrics
from esper.tolaria.loop.aggregation.owners import Owners
from esper.tolaria.loop.aggregation.paths import SourceRows
from esper.tolaria.record.figures.gradients import Blended, SeedGradient

MEASURED_STEPS = 8
"""Fewer than these in an epoch are kept for the next one."""


class _Columns(NamedTuple):
    """Of one source in one step, or in the sum over steps."""

    steps: float
    weight: float
    norm: float
    share: float
    conflicts: float
    pull: float
    """Its part in what all pull at in the host."""
    alpha: float
    p95: float
    sparsity: float
    clamped: float


class Sample(NamedTuple):
    """What the seeds asked of one step's gradient, on the device."""

    owners: Owners
    has_paths: bool
    """Whether the gradient was split by the seeds that it came through."""
    table: Tensor
    """[owners, columns], float64."""
    layer_norms: Tensor
    """[owners, parameters], float64."""


Note = Callable[[Sample], None]
"""Takes a step's sample."""


class _Sums:
    """Of the steps that one topology made, seen in one way."""

    def __init__(self, owners: Owners, *, has_paths: bool) -> None:
        self.owners = owners
        self.has_paths = has_paths
        self.steps = 0
        self.table: Tensor | None = None
        self.layer_norms: Tensor | None = None

    def add(self, table: Tensor, layer_norms: Tensor) -> None:
        """Take one more step; one that isn't finite counts for nothing, as it moves nothing."""
        self.steps += 1
        is_good = table.isfinite().all()
        table, layer_norms = table.where(is_good, 0.0), layer_norms.where(is_good, 0.0)
        self.table = table if self.table is None else self.table + table
        self.layer_norms = layer_norms if self.layer_norms is None else self.layer_norms + layer_norms


class SeedMeter:
    """Sums of an epoch; `layers` parameters are told of each seed."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._sums: list[_Sums] = []

    @property
    def steps(self) -> int:
        """Measured since the last reading."""
        return sum(sums.steps for sums in self._sums)

    def note(self, sample: Sample) -> None:
        """Take one more step."""
        self._of(sample.owners, has_paths=sample.has_paths).add(sample.table, sample.layer_norms)

    def _of(self, owners: Owners, *, has_paths: bool) -> _Sums:
        last = self._sums[-1] if self._sums else None
        if last is None or last.owners is not owners or last.has_paths != has_paths:
            self._sums.append(last := _Sums(owners, has_paths=has_paths))
        return last

    def forget(self) -> None:
        """What was measured belongs to steps that were undone."""
        self._sums = []

    def read(self) -> list[SeedGradient]:
        """Every seed's figures since the last reading; waits for the device."""
        stretches, self._sums = self._sums, []
        found: dict[str, list[_Seed]] = {}
        for sums in stretches:
            for seed in self._numbers(sums):
                found.setdefault(seed.graft.seed_id, []).append(seed)
        return [told for seeds in found.values() if (told := _told(seeds)) is not None]

    def _numbers(self, sums: _Sums) -> Iterable[_Seed]:
        if sums.table is None or sums.layer_norms is None:
            return
        owners = sums.owners
        top = sums.layer_norms[1:].topk(min(self._layers, len(owners.names)), dim=1)
        numbers = torch.cat([sums.table[1:], top.values, top.indices.double()], 1).tolist()
        width, others = len(_Columns._fields), len(owners.grafts)
        for place, (graft, row) in enumerate(zip(owners.grafts, numbers, strict=True), 1):
            columns = _Columns(*row[:width])
            values, indices = row[width : width + top.values.size(1)], row[width + top.values.size(1) :]
            layers = {owners.names[int(at)]: value for at, value in zip(indices, values, strict=True) if value}
            yield _Seed(graft, columns, layers, owners.sizes[place], sum(owners.sizes), others if sums.has_paths else 0)


class _Seed(NamedTuple):
    """A seed in one stretch of steps."""

    graft: Graft
    columns: _Columns
    layers: Mapping[str, float]
    parameters: int
    of_parameters: int
    others: int
    """Sources that it was held against; 0 where nobody looked."""


def _told(seeds: Sequence[_Seed]) -> SeedGradient | None:
    """One seed's stretches as means; None where no step could be used."""
    steps = sum(seed.columns.steps for seed in seeds)
    looked = [seed for seed in seeds if seed.others]
    chances = sum(seed.columns.steps * seed.others for seed in looked)
    if not steps:
        return None
    sums = _Columns(*map(sum, zip(*(seed.columns for seed in seeds), strict=True)))
    last = seeds[-1]
    return SeedGradient(
        seed_id=last.graft.seed_id,
        steps=round(steps),
        weight=sums.weight / steps,
        norm=sums.norm / steps,
        share=sums.share / steps,
        blended=Blended(sums.alpha / steps, sums.p95 / steps, sums.sparsity / steps, sums.clamped / steps),
        parameters=last.parameters,
        mask_fraction=last.parameters / max(1, last.of_parameters),
        conflicts=sums.conflicts if chances else None,
        conflict_ratio=sums.conflicts / chances if chances else None,
        teacher_share=sums.pull / sum(seed.columns.steps for seed in looked) if chances else None,
        layers=tuple((name, value / max(1.0, last.columns.steps)) for name, value in last.layers.items()),
    )


def sample_of_rows(owners: Owners, sources: SourceRows, weights: Sequence[float], scale: Tensor | None) -> Sample:
    """Of a step whose gradient was split by the seeds that it came through; `scale` is what its loss was scaled by."""
    found = seed_metrics(sources.rows, sources.pool.layer_offsets)
    host = found.layer_norms[:, : owners.spans[0].end].square().sum(1).sqrt()
    pulls = host / host.sum().clamp(min=torch.finfo(host.dtype).tiny)
    norms, layer_norms = (value if scale is None else value / scale for value in (found.norms, found.layer_norms))
    return _sample(owners, weights, norms, found.shares, layer_norms, (found.dots < 0).sum(1), pulls)


def sample_of_gradients(owners: Owners, weights: Sequence[float]) -> Sample | None:
    """Of a step of which only the gradients are known, that is, each owner's slice; None where there are none."""
    gradients = [parameter.grad for parameter in owners.parameters]
    there = [gradient for gradient in gradients if gradient is not None]
    if not there:
        return None
    norms = iter(torch.stack(norm_of_each(there)).double().unbind())
    zero = torch.zeros((), dtype=torch.float64, device=there[0].device)
    each = torch.stack([zero if gradient is None else next(norms) for gradient in gradients])
    layer_norms = each.new_zeros((len(owners.spans), len(each)))
    for place, span in enumerate(owners.spans):
        layer_norms[place, span.begin : span.end] = each[span.begin : span.end]
    total = layer_norms.square().sum(1).sqrt()
    shares = total / total.sum().clamp(min=torch.finfo(total.dtype).tiny)
    return _sample(owners, weights, total, shares, layer_norms, None, None)


def _sample(
    owners: Owners,
    weights: Sequence[float],
    norms: Tensor,
    shares: Tensor,
    layer_norms: Tensor,
    conflicts: Tensor | None,
    pulls: Tensor | None,
) -> Sample:
    none = torch.zeros_like(norms)
    blends = torch.stack([norms.new_zeros(4), *map(_blended, owners.grafts)])
    weighed = torch.stack([torch.full_like(norms[0], weight) for weight in weights])
    measured = [torch.ones_like(norms), weighed, norms, shares]
    measured += [none if value is None else value.double() for value in (conflicts, pulls)]
    table = torch.cat([torch.stack(measured, 1), blends], 1)
    return Sample(owners, conflicts is not None, table, layer_norms)


def _blended(graft: Graft) -> Tensor:
    return torch.stack(graft.blend_stats()).double()
