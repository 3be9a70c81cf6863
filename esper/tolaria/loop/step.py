"""One training step of one arm: keyed randomness, forward, backward, clipping, optimiser.

The same call trains the host and its twin, with the same batch and the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import cast

import torch
from torch import Tensor, nn

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.passes.batches import cut
from esper.kasmina.executor.passes.statistics import norm_of_each
from esper.tolaria.config import BY_LOSSES, BY_MICROBATCHES, TrainConfig
from esper.tolaria.loop.aggregation import GradientSurgery, Note, SeedPaths, SeedSources, Weigh
from esper.tolaria.loop.arm import Arm, Batch
from esper.tolaria.loop.device_timer import DeviceTimer
from esper.tolaria.loop.step_log import StepResult
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.pieces import piece_of
from esper.tolaria.ranks.replica import Forward, Replicas
from esper.tolaria.ranks.shards import Shards
from esper.tolaria.task.objective.task import SplitTask
from esper.tolaria.task.optimizers.stepping import step_of
from esper.tolaria.task.precision import autocast
from esper.tolaria.task.randomness import has_drawn, of_rank, seed_all, seed_device

Share = float | Tensor
SeedNorms = Callable[[], Mapping[str, Tensor]]
"""Norms of the gradients that a backward pass has left in seeds, by seed."""
Beside = Callable[[object], AbstractContextManager[None]]
"""Around what nothing on the way to the weights waits for; it is given what is read there."""


def in_line(read: object) -> AbstractContextManager[None]:
    """One after the other, as it is written."""
    return nullcontext()


LOSS = "loss "
"""What names of one of several losses begin with."""
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The parameters of an arm by owner: the host's gradient norm leaves its seeds out."""

    host: Sequence[nn.Parameter]
    seeds: Sequence[nn.Parameter] = ()


class Stepper:
    """Makes steps; holds settings, no state of the run."""

    def __init__(
        self,
        task: SplitTask,
        config: TrainConfig,
        device: torch.device,
        clock: Clock = SYSTEM_CLOCK,
        ranks: Ranks = ALONE,
        weigh: Weigh = lambda graft: 1.0,
        shards: Shards | None = None,
    ) -> None:
        self._task = task
        self._ranks = ranks
        self._shards = shards
        self._replicas = Replicas(ranks, task)
        self._seed = of_rank(config.seed, ranks.rank)
        self._device = device
        self._accumulate = config.accumulate
        self._clip_norm = config.clip_norm
        self._amp = config.amp
        self._surgery_timer = DeviceTimer(device, clock)
        rows = config.accumulate if config.surgery == BY_MICROBATCHES else 1
        surgery = GradientSurgery(config.seed, rows, self._surgery_timer, ranks) if config.pcgrad else None
        self._surgery = surgery
        self._parts_losses = config.surgery == BY_LOSSES
        self._sources = SeedSources(config, surgery, weigh)
        self._named: dict[str, Tensor] = {}
        """What the present step tells by name."""
        self._beside: Beside = in_line
        """Where the present step counts hits."""

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped, and so measured in every step."""
        return self._clip_norm is not None

    @property
    def surgery_ms(self) -> float | None:
        """Time spent on gradient surgery so far; None where it is off."""
        return None if self._surgery is None else self._surgery_timer.total_ms()

    def run(
        self,
        arm: Arm,
        batch: Batch,
        step: int,
        groups: Groups,
        *,
        measures_norm: bool = False,
        seed_norms: SeedNorms | None = None,
        note: Note | None = None,
    ) -> StepResult:
        """Make step `step` (counted from 0) of the arm; `note` takes what its seeds ask of the gradient."""
        seed_all(self._device, self._seed, "step", step)
        self._set_step(step)
        return self.compute(arm, batch, step, groups, measures_norm=measures_norm, seed_norms=seed_norms, note=note)

    def prepare_replay(self, step: int) -> None:
        """What a recorded step takes from the host beside its batch: no code of a host's runs again that could draw."""
        seed_device(self._device, self._seed, "step", step)
        self._set_step(step)

    def is_prepared(self, step: int) -> bool:
        """Whether a replay of this step has drawn or met gradients in an order: others have to be prepared for it."""
        return self._surgery is not None or has_drawn(self._device, self._seed, "step", step)

    def _set_step(self, step: int) -> None:
        if self._surgery is not None:
            self._surgery.set_step(step)

    def compute(
        self,
        arm: Arm,
        batch: Batch,
        step: int,
        groups: Groups,
        *,
        measures_norm: bool = False,
        seed_norms: SeedNorms | None = None,
        note: Note | None = None,
        steps_optimizer: bool = True,
        beside: Beside = in_line,
    ) -> StepResult:
        """What a step does on the device, once everything else is prepared for it; this much can be recorded."""
        self._named, self._beside = {}, beside
        for parameter in (*groups.host, *groups.seeds):
            parameter.grad = None
        paths = self._sources.paths(arm, note)
        if paths is not None:
            loss, accuracy, conflict_rate = self._through_seeds(arm, batch, step, paths, note)
        else:
            loss, accuracy, conflict_rate = self._backward(arm, batch, step)
        scaler = arm.scaler
        if scaler is not None:
            scaler.unscale_(arm.optimizer)
        if note is not None and paths is None:
            self._sources.measure(arm, note)
        of_seeds = {} if seed_norms is None else seed_norms()
        norm, norms = self._clip(groups, measures_norm)
        if steps_optimizer and scaler is None:
            step_of(arm.optimizer)
        elif steps_optimizer and scaler is not None:
            scaler.step(arm.optimizer)
            scaler.update()
        pairs = 0 if conflict_rate is None else self._pairs(paths)
        return StepResult(loss, accuracy, norm, conflict_rate, norms, self._named, pairs, of_seeds)

    def _pairs(self, paths: SeedPaths | None) -> int:
        """Of what surgery held against each other in this step."""
        if paths is not None:
            sources = len(paths.owners.spans)
        else:
            sources = sum(name.startswith(LOSS) for name in self._named) if self._parts_losses else self._accumulate
        return sources * (sources - 1) // 2

    def _backward(self, arm: Arm, batch: Batch, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self._ranks.count > 1:
            return self._over_ranks(arm, batch, step)
        if self._surgery is not None and self._parts_losses:
            return self._apart(self._surgery, arm, batch, step)
        if self._accumulate == 1:
            return *self._pass(arm, batch, 1.0, beside=self._beside), None
        parts, shares, counts = self._parts(batch)
        if self._surgery is not None and not self._sources.are_seeds:
            return self._surgery.backward(arm, parts, step, self._pass, shares, counts)
        passes = [self._pass(arm, part, share) for part, share in zip(parts, shares, strict=True)]
        return *mean_of(passes, shares, counts), None

    def _parts(self, batch: Batch) -> tuple[list[Batch], list[Share], list[Share]]:
        """What this rank passes of a batch, and the shares of each part in its loss and in its accuracy."""
        parts = cut(batch, self._accumulate)
        if self._ranks.count == 1:
            targets = [part[1] for part in parts]
            shares = shares_of([self._task.weight(each) for each in targets], self._task.weight(batch[1]))
            return parts, shares, shares_of([self._task.count(each) for each in targets], self._task.count(batch[1]))
        pieces = [piece_of(part, self._ranks.rank, self._ranks.count) for part in parts]
        shares, counts = (
            shares_of([of(piece.batch[1]) * piece.counts for piece in pieces], of(batch[1]))
            for of in (self._task.weight, self._task.count)
        )
        return [piece.batch for piece in pieces], shares, counts

    def _through_seeds(
        self, arm: Arm, batch: Batch, step: int, paths: SeedPaths, note: Note | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As one process passes a batch, with the gradient split by the seeds that it came through."""
        self._replicas.unwrap(cast(TrainingArm, arm))
        parts, shares, counts = self._parts(batch)
        passes = [self._pass(arm, part, share, paths=paths) for part, share in zip(parts, shares, strict=True)]
        told = mean_of(passes, shares, counts)
        with self._surgery_timer.measure():
            conflict_rate = self._sources.settle(arm, paths, step, note)
        return *(told if self._ranks.count == 1 else self._whole(*told)), conflict_rate

    def _over_ranks(self, arm: Arm, batch: Batch, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """This rank passes its own samples; gradients, loss and accuracy are those of the whole batch."""
        parts, weights, counts = self._parts(batch)
        conflicts: Tensor | None = None
        if self._surgery is not None and self._parts_losses:
            loss, accuracy, conflicts = self._apart(self._surgery, arm, parts[0], step, weights[0])
            accuracy = None if accuracy is None else accuracy * counts[0]
        elif self._surgery is not None and not self._sources.are_seeds:
            loss, accuracy, conflicts = self._surgery.backward(arm, parts, step, self._pass, weights, counts)
        else:
            loss, accuracy = mean_of(list(self._passes(arm, parts, weights)), weights, counts)
        return *self._whole(loss, accuracy), conflicts

    def _passes(
        self, arm: Arm, parts: Sequence[Batch], shares: Sequence[Share]
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Gradients are summed over the ranks behind the last pass."""
        for number, (part, share) in enumerate(zip(parts, shares, strict=True), 1):
            wrapped = self._replicas if self._shards is None else self._shards
            with wrapped.forward(cast(TrainingArm, arm), is_last=number == len(parts)) as forward:
                yield self._pass(arm, part, share, forward)

    def _whole(self, loss: Tensor, accuracy: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each rank's share of what is told of a step, summed."""
        names = [name for name in self._named if name.startswith(LOSS)]
        there = [loss, *([] if accuracy is None else [accuracy]), *(self._named[name] for name in names)]
        told = torch.stack([value.double() for value in there])
        self._ranks.total(told)
        if names:
            self._named |= dict(zip(names, told[-len(names) :], strict=True))
        return told[0], None if accuracy is None else told[1]

    def _pass(
        self,
        arm: Arm,
        batch: Batch,
        share: Share,
        forward: Forward | None = None,
        paths: SeedPaths | None = None,
        beside: Beside = in_line,
    ) -> tuple[Tensor, Tensor | None]:
        """Forward and backward; the gradient is weighed by `share`, the returned loss is not."""
        inputs, targets = batch
        with autocast(self._amp, self._device), nullcontext() if paths is None else paths.watched():
            outputs = self._task.forward(arm.model, inputs) if forward is None else forward(inputs)
            parts = self._task.named_losses(outputs, targets)
            loss = reduce(add, parts.values()) if parts else self._task.loss(outputs, targets)
        self._tell(parts, share)
        with torch.no_grad(), beside(outputs):
            accuracy = self._task.accuracy(outputs, targets) if self._task.counts_hits else None
        weighed = loss if isinstance(share, float) and share == 1.0 else loss * share
        scaler = arm.scaler
        whole = weighed if scaler is None else scaler.scale(weighed)
        whole.backward(retain_graph=paths is not None)  # type: ignore[no-untyped-call]
        if paths is not None:
            with self._surgery_timer.measure():
                paths.split()
        return loss.detach(), accuracy

    def _apart(
        self, surgery: GradientSurgery, arm: Arm, batch: Batch, step: int, share: Share = 1.0
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """One forward pass, and a backward pass for each of several losses, which are weighed by `share`."""
        inputs, targets = batch
        with autocast(self._amp, self._device):
            outputs = self._task.forward(arm.model, inputs)
            parts = self._task.named_losses(outputs, targets)
        self._tell(parts, share)
        if not (isinstance(share, float) and share == 1.0):
            parts = {name: part * share for name, part in parts.items()}
        conflict_rate, cosines = surgery.of_losses(arm, parts, step)
        self._named |= cosines
        with torch.no_grad():
            accuracy = self._task.accuracy(outputs, targets) if self._task.counts_hits else None
        return reduce(add, parts.values()).detach(), accuracy, conflict_rate

    def _tell(self, parts: Mapping[str, Tensor], share: Share) -> None:
        for name, loss in parts.items():
            self._named[LOSS + name] = self._named.get(LOSS + name, 0.0) + loss.detach() * share

    def _clip(self, groups: Groups, measures_norm: bool) -> tuple[Tensor | None, Mapping[nn.Parameter, Tensor]]:
        """The host's gradient norm before any clipping, and norms of its gradients where they are known."""
        if self._shards is not None:
            is_wanted = measures_norm or self._clip_norm is not None
            return self._shards.clip(groups.host, self._clip_norm) if is_wanted else (None, {})
        if self._clip_norm is not None:
            if groups.seeds:
                nn.utils.clip_grad_norm_(groups.seeds, self._clip_norm)
            return nn.utils.clip_grad_norm_(groups.host, self._clip_norm), {}
        return norms_of(groups.host) if measures_norm else (None, {})


def norms_of(parameters: Sequence[nn.Parameter]) -> tuple[Tensor | None, Mapping[nn.Parameter, Tensor]]:
    """The norm of all gradients together and that of each, 0-d tensors; None where there is no gradient."""
    there = [(parameter, parameter.grad) for parameter in parameters]
    gradients = {parameter: gradient for parameter, gradient in there if gradient is not None}
    if not gradients:
        return None, {}
    norms = norm_of_each(list(gradients.values()))
    return torch.linalg.vector_norm(torch.stack(norms)), dict(zip(gradients, norms, strict=True))


def shares_of(weights: Sequence[Tensor | int], whole: Tensor | int) -> list[Share]:
    """The share of each part in the whole; on the device where that must be asked, and nothing of nothing."""
    return [
        weight / whole if isinstance(whole, int) else (weight / whole.clamp(min=TINY)).float() for weight in weights
    ]


def mean_of(
    passes: Sequence[tuple[Tensor, Tensor | None]], shares: Sequence[Share], counts: Sequence[Share]
) -> tuple[Tensor, Tensor | None]:
    """Loss and accuracy of a whole batch from those of its parts."""
    loss = torch.stack([part[0] * share for part, share in zip(passes, shares, strict=True)]).sum()
    hits = [part[1] * share for part, share in zip(passes, counts, strict=True) if part[1] is not None]
    return loss, torch.stack(hits).sum() if hits else None
