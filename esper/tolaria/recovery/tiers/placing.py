"""A tier's state made the executor's own: what its optimisers hold is written over, since new memory is slow to be had.

From the first byte on the present state is lost, so this is done only with a state that is whole, and to its end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.kasmina.executor import SeedExecutor
from esper.kasmina.executor.contents.filling import Pair, fill
from esper.kasmina.executor.contents.storages import has_storage
from esper.tolaria.recovery.packed import State
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.recovery.tiers.copies import copy_of

COPIED_BY_LOADING = ("model", "seeds")
"""Of an arm; all else it takes as it is given."""


def placed(snapshot: Snapshot, executor: SeedExecutor) -> Snapshot:
    """A snapshot of which nothing that the run will go on using is the tier's."""
    rest = {"loader": snapshot.loader, "progress": snapshot.progress}
    return replace(snapshot, executor=_placed(snapshot.executor, executor), **copy_of(rest, _new))


def _placed(saved: State, executor: SeedExecutor) -> State:
    arms = {"arm": executor.arm, "twin": executor.twin}
    state: State = copy_of({key: value for key, value in saved.items() if key not in arms}, _new)
    for name, arm in arms.items():
        state[name] = None if saved[name] is None else _placed_arm(saved[name], None if arm is None else arm.optimizer)
    return state


def _placed_arm(saved: State, optimizer: Optimizer | None) -> State:
    given = {key: saved[key] for key in COPIED_BY_LOADING}
    state: State = copy_of({key: value for key, value in saved.items() if key not in (*given, "optimizer")}, _new)
    return {**state, **given, "optimizer": _placed_optimizer(saved["optimizer"], optimizer)}


def _placed_optimizer(saved: State, optimizer: Optimizer | None) -> State:
    """With what it remembers of each parameter in the memory of what stands in the same place and has the same form.

    Which parameter's memory that was doesn't matter: loading gives it on to the one that it is saved for.
    """
    held = [] if optimizer is None else [optimizer.state.get(each, {}) for each in _parameters(optimizer)]
    pairs: dict[int, Pair] = {}
    taken: set[int] = set()

    def place(value: Any, memory: Any) -> Any:
        if not _is_plain(value):
            return copy_of(value, _new)
        if id(value) not in pairs:
            is_free = _fits(value, memory) and memory.data_ptr() not in taken
            target = memory if is_free else _new(value)
            taken.add(target.data_ptr())
            pairs[id(value)] = (target, value)
        return pairs[id(value)][0]

    rest: State = copy_of({key: value for key, value in saved.items() if key != "state"}, _new)
    state = {}
    for number, (name, remembered) in enumerate(saved["state"].items()):
        mine = held[number] if number < len(held) else {}
        state[name] = {key: place(value, mine.get(key)) for key, value in remembered.items()}
    fill(list(pairs.values()))
    return {**rest, "state": state}


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and has_storage(value)


def _fits(tensor: Tensor, memory: Any) -> bool:
    return (
        _is_plain(memory)
        and memory.shape == tensor.shape
        and memory.dtype == tensor.dtype
        and memory.stride() == tensor.stride()
    )


def _new(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.preserve_format)
