"""Data parallel by torch's own DistributedDataParallel: around an arm's network and seeds, anew after every graft.

Seeds hang on their host by hooks and are no parts of it, so what is wrapped holds both. Gradients are summed where each
rank weighs its own by its samples' share of the batch, and averaged where a user's loop makes the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.task import Task
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.ranks.pieces import piece_of

Forward = Callable[[Any], Any]
Reduce = Callable[[Ranks, GradBucket], torch.futures.Future[Tensor]]
"""What becomes of a bucket of gradients."""


class Whole(nn.Module):
    """A network and what is grafted on it, as one module."""

    def __init__(self, model: nn.Module, seeds: Iterable[nn.Module], call: Callable[..., Any]) -> None:
        """`call(model, ...)` passes it."""
        super().__init__()
        self.model = model
        self.seeds = nn.ModuleList(seeds)
        self._call = call

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Outputs of the network, seeds included."""
        return self._call(self.model, *arguments, **keywords)


class _Wrapped(NamedTuple):
    replica: DistributedDataParallel
    parameters: list[tuple[nn.Parameter, torch.Size, bool]]
    """What it reduces: the network below it may have become another since."""


class Replicas:
    """The wrapped arms of this rank."""

    def __init__(
        self, ranks: Ranks, task: Task, *, call: Callable[..., Any] | None = None, reduce: Reduce | None = None
    ) -> None:
        """`call(model, ...)` passes a network, as the task does where it isn't said; gradients are summed."""
        self._ranks = ranks
        self._task = task
        self._call = task.forward if call is None else call
        self._reduce = summed if reduce is None else reduce
        self._wrapped: WeakKeyDictionary[TrainingArm, _Wrapped] = WeakKeyDictionary()

    @contextmanager
    def forward(self, arm: TrainingArm, *, is_last: bool) -> Iterator[Forward]:
        """Passes through the arm; only after the last one of a step are gradients reduced."""
        with self._ranks.guarded():
            wrapped = self.of(arm)
            with nullcontext() if is_last else wrapped.no_sync():
                yield wrapped

    def unwrap(self, arm: TrainingArm) -> None:
        """Passes of this arm go by themselves: hooks of a wrapper would wait for a reduction that nobody has begun."""
        self._wrapped.pop(arm, None)

    def of(self, arm: TrainingArm) -> DistributedDataParallel:
        """The wrapper of the arm as it is now. All ranks must ask for it at the same moment."""
        parameters, known = _parameters(arm), self._wrapped.get(arm)
        if known is not None and _same(known.parameters, parameters):
            return known.replica
        self._wrapped.pop(arm, None)  # its hooks go before others come
        known = None
        replica = DistributedDataParallel(
            Whole(arm.model, taking_part(arm)[1:], self._call),
            process_group=self._ranks.group,
            init_sync=False,  # the same already; a difference is to be found, not covered up
            find_unused_parameters=has_unused(arm, self._task),
        )
        replica.broadcast_buffers = False  # the argument of that name warns, in torch that knows a newer one
        reduce = self._reduce
        # Unannotated: torch compares annotations with its types, and ours are text.
        replica.register_comm_hook(self._ranks, lambda ranks, bucket: reduce(ranks, bucket))
        self._wrapped[arm] = _Wrapped(replica, parameters)
        return replica


def summed(ranks: Ranks, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Adds a bucket's gradients up over all ranks."""

    def result(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        try:
            return done.value()[0]
        except RuntimeError:
            ranks.note_failure()
            raise

    work = dist.all_reduce(bucket.buffer(), group=ranks.group, async_op=True)
    reduced: torch.futures.Future[Tensor] = work.get_future().then(result)
    return reduced


def averaged(ranks: Ranks, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of a bucket's gradients over all ranks."""
    bucket.buffer().div_(ranks.count)
    return summed(ranks, bucket)


def has_unused(arm: TrainingArm, task: Task) -> bool:
    """Whether a pass leaves parameters without a gradient, for which a reduction would wait in vain."""
    parameters = [p for module in taking_part(arm) for p in module.parameters() if p.requires_grad]
    inputs, targets = piece_of(next(iter(task.judge_batches())), 0, 64).batch
    with side_pass(arm.modules, key=0, training=None), torch.enable_grad():
        loss = task.loss(task.forward(arm.model, inputs), targets)
        reached = torch.autograd.grad(loss, parameters, allow_unused=True)
    return any(gradient is None for gradient in reached)


def _parameters(arm: TrainingArm) -> list[tuple[nn.Parameter, torch.Size, bool]]:
    return [(each, each.shape, each.requires_grad) for module in taking_part(arm) for each in module.parameters()]


def taking_part(arm: TrainingArm) -> list[nn.Module]:
    """The network and the seeds in its pass: for the gradients of a paused one a reduction would wait in vain."""
    return [arm.model, *(graft.module for graft in arm.grafts if not graft.is_muted)]


def _same(left: Sequence[tuple[Any, ...]], right: Sequence[tuple[Any, ...]]) -> bool:
    return len(left) == len(right) and all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(left, right, strict=True))
