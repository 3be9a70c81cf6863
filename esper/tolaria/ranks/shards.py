"""Weights, gradients and moments in parts, by torch's own fully_shard: each rank holds some rows of every parameter.

An arm's parameters are whole between steps, while somebody may look at them, and this rank's rows in steps; what the
optimiser holds of them is always of these rows, since it works value by value. A step passes through a copy of the
network's structure that fully_shard manages, whose parts are the same memory. After a graft it is a fresh one: parts of
the arm, a copy of the new structure without weights, fully_shard, and the parts put in.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.weak import WeakTensorKeyDictionary

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.contents.clone import independent_copy
from esper.kasmina.executor.passes.compiled import compile_copy
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.stacks.run import blocks_of
from esper.tolaria.ranks.alike import Arms
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.ranks.replica import Forward, Whole
from esper.tolaria.ranks.rows import ROWS, State, in_parts, is_in_parts, shape_of, share_of

BUCKET_BYTES = 2**28
"""Of weights that are gathered at once."""
CLIP_EPSILON = 1e-6
"""As torch's own clipping has it."""
COUNTED = (bool, int, float, str)
"""Types of attributes that a network may change as it is passed."""


class _Sharded(NamedTuple):
    network: Whole
    """Managed by fully_shard."""
    pairs: list[tuple[nn.Parameter, nn.Parameter]]
    """Parameters of the arm, and those that stand for them there."""
    facts: list[tuple[nn.Parameter, bool]]


class Shards:
    """The arms of a run in parts. All ranks call alike, at the same moment."""

    def __init__(self, ranks: Ranks, task: Task, device: torch.device, containers: Sequence[str]) -> None:
        self._ranks = ranks
        self._task = task
        self._device = device
        self._containers = containers  # lists of blocks, each of which is gathered by itself
        self._sharded: WeakKeyDictionary[TrainingArm, _Sharded] = WeakKeyDictionary()
        self._passed: WeakSet[TrainingArm] = WeakSet()
        """Those whose network was passed since it was made."""
        self._are_whole = True
        self._shapes: MutableMapping[Tensor, torch.Size] = WeakTensorKeyDictionary()
        """What a parameter that is in parts is as a whole."""
        if device.type == "cuda":
            torch.cuda.set_device(device)  # fully_shard asks for it there

    def cut(self, arms: Arms) -> None:
        """Every parameter becomes this rank's rows; of what is in parts already, nothing changes."""
        if not self._are_whole:
            return  # and arms change only while they are
        self._are_whole = False
        for arm in _there(arms):
            whole = [each for each in arm.model.parameters() if each not in self._shapes]
            if whole:
                self._cut(arm, whole)

    def gather(self, arms: Arms) -> None:
        """Every parameter is whole, and has no gradient."""
        self._are_whole = True
        parts = [each for arm in _there(arms) for each in arm.model.parameters() if each in self._shapes]
        with self._ranks.collective():
            for bucket in self._buckets(parts):
                self._gather(bucket)

    @contextmanager
    def forward(self, arm: TrainingArm, *, is_last: bool) -> Iterator[Forward]:
        """Passes through the arm, which is in parts; after the last one of a step its parameters have gradients."""
        with self._ranks.collective():
            sharded = self._of(arm)
            # Earlier passes keep whole gradients: less memory would take a reduction each.
            sharded.network.set_requires_gradient_sync(is_last)  # type: ignore[operator]
            yield sharded.network
        if arm not in self._passed:
            self._passed.add(arm)
            _check_attributes(arm.model, sharded.network.model)
            for parameter, part in sharded.pairs:
                parameter.data = _local(part)  # one that had to be padded has other memory after the first pass
        if not is_last:
            return
        with torch.no_grad():
            for parameter, part in sharded.pairs:
                parameter.grad = None if part.grad is None else part.grad.to_local()  # type: ignore[attr-defined]
                part.grad = None

    @torch.no_grad()
    def clip(
        self, parameters: Iterable[nn.Parameter], most: float | None
    ) -> tuple[Tensor | None, dict[nn.Parameter, Tensor]]:
        """Scales gradients down to a joint norm of `most`; the joint norm before, and each one's afterwards."""
        gradients = {each: each.grad for each in parameters if each.grad is not None}
        if not gradients:
            return None, {}
        squares = torch.stack(torch._foreach_norm(list(gradients.values()))).double().square()
        self._ranks.total(squares)
        norm, norms = squares.sum().sqrt().to(next(iter(gradients)).dtype), squares.sqrt()
        if most is not None:
            nn.utils.clip_grads_with_norm_(gradients, most, norm)
            norms = norms * (most / (norm + CLIP_EPSILON)).clamp(max=1.0)
        return norm, dict(zip(gradients, norms.unbind(), strict=True))

    def in_parts(self, arms: Arms, state: State) -> State:
        """An executor's state, with this rank's rows in the place of whole weights."""
        found = dict(state)
        for key, arm in (("arm", arms.arm), ("twin", arms.twin)):
            if arm is not None:
                found[key] = self._arm_in_parts(arm, state[key])
        return found

    def taken(self, state: State) -> State:
        """Of a state in parts, or of a whole one, what an arm takes: whole weights, and rows of what was remembered."""
        found = dict(state)
        for key in ("arm", "twin"):
            if state[key] is not None:
                found[key] = self._arm_taken(state[key])
        return found

    def rows_of(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor, as fully_shard shares them out."""
        first, last = share_of(len(whole), self._ranks.rank, self._ranks.count)
        return whole[first:last]

    def _arm_in_parts(self, arm: TrainingArm, state: State) -> State:
        weights = {each.data_ptr(): each for each in arm.model.parameters() if each.numel()}
        optimizer = state["optimizer"]
        order = [each for group in arm.optimizer.param_groups for each in group["params"]]

        def weight(value: Any) -> Any:
            is_one = isinstance(value, Tensor) and value.numel() and value.data_ptr() in weights
            return in_parts(self.rows_of(value), value.shape) if is_one else value

        def remembered(index: int, values: State) -> State:
            return {
                name: in_parts(value, order[index].shape) if _is_by_value(value) else value
                for name, value in values.items()
            }

        return {
            **state,
            "model": {name: weight(value) for name, value in state["model"].items()},
            "optimizer": {**optimizer, "state": {i: remembered(i, each) for i, each in optimizer["state"].items()}},
        }

    def _arm_taken(self, state: State) -> State:
        optimizer = state["optimizer"]
        return {
            **state,
            "model": self._whole(state["model"]),
            "optimizer": {
                **optimizer,
                "state": {
                    index: {name: self._own_rows(value) for name, value in values.items()}
                    for index, values in optimizer["state"].items()
                },
            },
        }

    def _own_rows(self, value: Any) -> Any:
        if is_in_parts(value):
            return value[ROWS]
        return self.rows_of(value).clone() if _is_by_value(value) else value

    def _whole(self, weights: State) -> State:
        """Rows of all ranks, put together where there are any; ties stay ties by being equal."""
        there = {name: value for name, value in weights.items() if is_in_parts(value)}
        rows = [nn.Parameter(value[ROWS].to(self._device), requires_grad=False) for value in there.values()]
        for parameter, value in zip(rows, there.values(), strict=True):
            self._shapes[parameter] = shape_of(value)
        with self._ranks.collective():
            for bucket in self._buckets(rows):
                self._gather(bucket)
        return weights | {name: each.data for name, each in zip(there, rows, strict=True)}

    @torch.no_grad()
    def _cut(self, arm: TrainingArm, parameters: Sequence[nn.Parameter]) -> None:
        """Parts that stand in a sharded network are its memory, and only written."""
        sharded = self._sharded.get(arm)
        pairs = sharded.pairs if sharded is not None and _is_of(sharded, arm) else []
        known = {id(parameter): part for parameter, part in pairs}
        for parameter in parameters:
            rows, memory = self.rows_of(parameter.data), known.get(id(parameter))
            self._shapes[parameter] = parameter.shape
            if memory is None:
                parameter.data = rows.clone(memory_format=torch.contiguous_format)
            else:
                parameter.data = _local(memory).copy_(rows)

    @torch.no_grad()
    def _gather(self, bucket: Sequence[nn.Parameter]) -> None:
        count = self._ranks.count
        sizes = [_padded(self._shapes[each], count) for each in bucket]
        own = bucket[0].new_zeros(sum(sizes))
        for parameter, part in zip(bucket, torch.split(own, sizes), strict=True):
            part[: parameter.numel()] = parameter.data.reshape(-1)
        found = own.new_empty(count * len(own))
        dist.all_gather_into_tensor(found, own, group=self._ranks.group)
        for parameter, parts in zip(bucket, torch.split(found.view(count, -1), sizes, 1), strict=True):
            shape = self._shapes.pop(parameter)
            parameter.grad = None
            parameter.data = parts.reshape(-1)[: shape.numel()].view(shape)

    def _buckets(self, parts: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
        """Of one type each; every rank finds the same ones."""
        bucket, size = list[nn.Parameter](), 0
        for parameter in parts:
            if bucket and (size > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
                yield bucket
                bucket, size = [], 0
            bucket.append(parameter)
            size += self._shapes[parameter].numel() * parameter.itemsize
        if bucket:
            yield bucket

    def _of(self, arm: TrainingArm) -> _Sharded:
        known = self._sharded.get(arm)
        if known is not None and _is_of(known, arm):
            return known
        self._sharded.pop(arm, None)
        self._passed.discard(arm)
        known = None
        gc.collect()  # hooks hold a network in circles, and it holds memory
        self._sharded[arm] = made = self._made(arm)
        return made

    def _made(self, arm: TrainingArm) -> _Sharded:
        """A fresh network of the arm's structure, its parts put in."""
        # Here: it takes a second to import, and runs without ranks need none of it.
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import FSDPModule, fully_shard
        from torch.distributed.tensor import DTensor, Shard

        blank = {each: self._blank(each) for each in arm.model.parameters()}
        model = independent_copy(arm.model, "model", shared=arm.model.buffers(), instead=blank.items())
        compile_copy(arm.model, model, around_hooks=False)  # those of fully_shard are no part of a graph
        mesh = DeviceMesh.from_group(cast(ProcessGroup, self._ranks.group), self._device.type)
        for path in self._containers:
            for block in blocks_of(model, path):
                fully_shard(block, mesh=mesh)
        network = Whole(model, [], self._task.forward)
        fully_shard(network, mesh=mesh)
        for managed in network.modules():
            if isinstance(managed, FSDPModule):
                # Each rank weighs its own by its samples' share; and gloo knows no sum that divides.
                managed.set_gradient_divide_factor(1.0)
                managed.set_force_sum_reduction_for_comms(True)
        pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        for (owner, name), parameter in _places(arm.model, model):
            if id(parameter) not in pairs:
                whole = blank[parameter]
                part = DTensor.from_local(
                    parameter.detach(), mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
                )
                pairs[id(parameter)] = (parameter, nn.Parameter(part, requires_grad=parameter.requires_grad))
            setattr(owner, name, pairs[id(parameter)][1])
        return _Sharded(network, list(pairs.values()), _facts(arm))

    def _blank(self, parameter: nn.Parameter) -> nn.Parameter:
        empty = torch.empty(self._shapes[parameter], dtype=parameter.dtype, device="meta")
        return nn.Parameter(empty, requires_grad=parameter.requires_grad)


def _check_attributes(model: nn.Module, passed: nn.Module) -> None:
    """Raises ConfigError for a network that counts or remembers in attributes: a copy of it was passed."""
    what = "changes as the network is passed, which weights in parts (--parallel shard) can't follow"
    for (path, module), other in zip(model.named_modules(), passed.modules(), strict=True):
        for name, value in vars(module).items():
            if type(value) in COUNTED and vars(other).get(name) != value:
                place = f"{path}.{name}".removeprefix(".")
                raise ConfigError("model", place, f"{what}: make it a buffer, or give --parallel ddp")


def _is_by_value(value: Any) -> bool:
    """Whether an optimiser remembers it of each value of a parameter, not of the whole."""
    return isinstance(value, Tensor) and value.dim() > 0


def _there(arms: Arms) -> list[TrainingArm]:
    return [arm for arm in (arms.arm, arms.twin) if arm is not None]


def _is_of(sharded: _Sharded, arm: TrainingArm) -> bool:
    now = _facts(arm)
    return len(now) == len(sharded.facts) and all(
        a[0] is b[0] and a[1] == b[1] for a, b in zip(now, sharded.facts, strict=True)
    )


def _facts(arm: TrainingArm) -> list[tuple[nn.Parameter, bool]]:
    return [(each, each.requires_grad) for each in arm.model.parameters()]


def _places(model: nn.Module, copy: nn.Module) -> Iterator[tuple[tuple[nn.Module, str], nn.Parameter]]:
    """Where each parameter of a model stands in the copy of its structure, every name of a tied one."""
    for module, other in zip(model.modules(), copy.modules(), strict=True):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield (other, name), parameter


def _local(part: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = part.to_local()
        return found


def _padded(shape: torch.Size, count: int) -> int:
    """Values of the largest part."""
    return -(-shape[0] // count) * shape[1:].numel()
