"""A small network with seeds attached, in float64, and what a textbook makes of its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina.executor.graft.graft import Graft
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.step import Groups
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.task.randomness import generator
from tests.unit.tolaria.scripted_control import fetch_artifact, germination

FIRST, MIDDLE, LAST = "span_linear:fc1-fc2", "residual_linear:act2-act2", "span_linear:fc3-fc4"
BLUEPRINTS = {FIRST: "span.linear", MIDDLE: "residual.linear", LAST: "span.linear"}


class Grown:
    """The run, its arm and a batch; seeds' outputs are no longer zero."""

    def __init__(self, slots: Sequence[str], **settings: Any) -> None:
        self.config = TrainConfig(samples=400, hidden=(6, 6, 6), optimizer="sgd", batch_size=24, **settings)
        self.run: Prepared = prepare(self.config, fetch_artifact)
        executor = self.run.executor
        for index, slot in enumerate(slots, 1):
            executor.execute(germination(f"s{index}", slot, BLUEPRINTS[slot])[1:], 0)
        self.arm = executor.arm
        assert len(self.arm.grafts) == len(slots)
        draws = torch.Generator().manual_seed(3)
        for module in self.arm.modules:
            module.double()
        for graft in self.arm.grafts:
            for parameter in graft.module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        inputs, targets = self.run.loader.batch(0)
        self.batch = inputs.double(), targets
        self.groups = Groups(host=executor.host_parameters(), seeds=executor.seed_parameters())

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.groups.host, *self.groups.seeds]

    def set_alphas(self, *alphas: float) -> None:
        for graft, alpha in zip(self.arm.grafts, alphas, strict=True):
            graft.set_alpha(alpha)

    def gradient(self, *, without: Sequence[Graft] = ()) -> Tensor:
        """Of the batch, over all parameters, along the paths that don't pass these seeds: their outputs are cut off."""
        self.arm.optimizer.zero_grad(set_to_none=True)
        with cut_off(without):
            self.run.task.loss(self.arm.model(self.batch[0]), self.batch[1]).backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([gradient.flatten() for gradient in found])

    def sources(self) -> list[Tensor]:
        """What came past all seeds, then what came through each as the last one, by cutting seeds off one by one."""
        grafts = in_forward_order(self.arm.grafts)
        found = {}
        for place, graft in enumerate(grafts):
            later = grafts[place + 1 :]
            found[graft.seed_id] = self.gradient(without=later) - self.gradient(without=[graft, *later])
        return [self.gradient(without=grafts), *(found[graft.seed_id] for graft in self.arm.grafts)]

    @property
    def host_columns(self) -> int:
        return sum(parameter.numel() for parameter in self.groups.host)

    def textbook(self, rows: Sequence[Tensor], weights: Sequence[float], step: int) -> Tensor:
        """PCGrad over the host's parameters (Yu et al. 2020), weighed; each seed's own slice weighed alone."""
        count, columns = len(rows), self.host_columns
        order = torch.rand(count, count, generator=generator(self.config.seed, "surgery", step)).argsort(dim=1)
        hosts = [row[:columns] for row in rows]
        total = torch.zeros_like(rows[0])
        for index, row in enumerate(hosts):
            current = row.clone()
            for other in order[index].tolist():
                if other != index and (dot := current @ hosts[other]) < 0:
                    current -= dot / (hosts[other] @ hosts[other]) * hosts[other]
            total[:columns] += weights[index] * current
        own, at = sum(rows), columns
        for weight, graft in zip(weights[1:], self.arm.grafts, strict=True):
            end = at + sum(parameter.numel() for parameter in graft.module.parameters())
            total[at:end], at = weight * own[at:end], end
        return total


def in_forward_order(grafts: Sequence[Graft]) -> list[Graft]:
    return sorted(grafts, key=lambda graft: [FIRST, MIDDLE, LAST].index(graft.slot.slot_id))


@contextmanager
def cut_off(grafts: Sequence[Graft]) -> Iterator[None]:
    hooks = [graft.module.register_forward_hook(lambda _, __, output: output.detach()) for graft in grafts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
