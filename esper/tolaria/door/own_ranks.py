"""A user's own loop on many ranks: the network as the loop passes it, and what the ranks' loaders must have in common.

Each rank's loader is its own. What is compared costs a few numbers, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.passes.batches import leaves, mapped
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.ranks.replica import Replicas, averaged
from esper.tolaria.recovery.checkpoint import decode, encode
from esper.tolaria.task.prepare import Prepared

Wrapped = Callable[[], DistributedDataParallel]
SHARES = "each needs a share of its own, as torch's DistributedSampler(dataset) gives it"


class Passed(nn.Module):
    """A network that is passed through torch's DistributedDataParallel, whichever wraps it at the moment.

    Everything else that is asked of it is the network's, which is its `module`.
    """

    def __init__(self, network: nn.Module, ranks: Ranks) -> None:
        super().__init__()
        self.module = network
        self.passes = 0
        """Those that a backward pass may follow."""
        self._ranks = ranks
        self._wrapped: Wrapped | None = None

    def follow(self, wrapped: Wrapped | None) -> None:
        """Pass through what this gives from now on; with None through the bare network."""
        self._wrapped = wrapped

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Outputs of the network, seeds included. All ranks make as many passes."""
        if self._wrapped is None or not torch.is_grad_enabled():
            return self.module(*arguments, **keywords)
        self.passes += 1
        with self._ranks.guarded():
            return self._wrapped()(*arguments, **keywords)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Passes inside add up each rank's own gradients; the next one outside averages all."""
        if self._wrapped is None:
            yield
            return
        with self._wrapped().no_sync():
            yield

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


class Passes:
    """How the arms of a loop are passed, so that each rank's optimiser sees the mean gradient of all."""

    def __init__(self, run: Prepared) -> None:
        self._ranks = run.ranks
        self._replicas = Replicas(run.ranks, run.task, call=_plainly, reduce=averaged)

    def of(self, arm: TrainingArm) -> nn.Module:
        """The arm's network, for the user's step; of a process that is alone as it is."""
        if self._ranks.count == 1:
            return arm.model
        passed = Passed(arm.model, self._ranks)
        passed.follow(lambda: self._replicas.of(arm))
        return passed

    def let_follow(self, passed: Passed, arm: Callable[[], TrainingArm]) -> None:
        """Have the loop's own handle pass through the arm of the moment."""
        passed.follow(lambda: self._replicas.of(arm()))


def _plainly(model: nn.Module, *arguments: Any, **keywords: Any) -> Any:
    return model(*arguments, **keywords)


def check_lengths(ranks: Ranks, steps: int, loader: Any) -> None:
    """Raises ConfigError on every rank where epochs are of more batches on one than on another."""
    found = torch.tensor([steps, -steps])
    ranks.largest(found)
    most, least = int(found[0]), -int(found[1])
    if most != least:
        own = counted(steps, "batch", "batches")
        what = f"gives {own} in an epoch; those of the ranks give from {least:,} to {most:,}"
        raise ConfigError("loader", type(loader).__name__, f"{what}, and every rank must make as many steps: {SHARES}")


def first_of_all(ranks: Ranks, batch: Any, loader: Any) -> Any:
    """The first rank's batch, which all look at. Raises ConfigError where every rank has the same, or another form."""
    name, own = type(loader).__name__, [leaf.detach().cpu() for leaf in leaves(batch)]
    content = ranks.told(bytes(encode({"leaves": own})) if ranks.is_first else b"")
    told: list[Tensor] = decode(content, "the first batch of rank 0")["leaves"]
    if ranks.any(len(told) != len(own)):
        tensors = counted(len(own), "tensor")
        what = f"gives batches of {tensors}, and rank 0's has {len(told)}: ranks must get batches of one form"
        raise ConfigError("loader", name, what)
    if not ranks.any(any(not torch.equal(mine, first) for mine, first in zip(own, told, strict=True))):
        raise ConfigError("loader", name, f"gives every rank the same first batch: {SHARES}")
    there = iter(told)
    return mapped(batch, lambda leaf: next(there).to(leaf.device) if isinstance(leaf, Tensor) else leaf)
