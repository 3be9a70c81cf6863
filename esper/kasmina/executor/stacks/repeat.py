"""Repeating a run: blocks 0..l-1, then copies of 0..l-1, with weights, buffers and optimiser state copied.

The learning rate stays, and copies join the parameter groups of their originals, so schedulers notice nothing. Copies
in order pay more than silent ones (G_stack, arXiv 2405.15319, and measurements of this project's own).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.contents.clone import independent_copy
from esper.kasmina.executor.passes.compiled import compile_copy
from esper.kasmina.executor.stacks.counts import rewrite
from esper.kasmina.executor.stacks.run import Run, blocks_of

Undo = Callable[[], None]


def repeat(model: nn.Module, optimizer: torch.optim.Optimizer, run: Run) -> list[tuple[str, nn.Module]]:
    """Insert copies of the run's blocks behind it; returns the copies with their paths.

    Raises GraftFailed, with model and optimiser as before, for what can't be repeated.
    """
    count = len(blocks_of(model, run.path))
    if not 0 <= run.start < run.stop <= count:
        raise GraftFailed(f"{run.path} has no blocks {run.start} to {run.stop}; it has {count}")
    order = [*range(run.stop), *range(run.start, run.stop), *range(run.stop, count)]
    arrange(model, optimizer, run.path, order)
    copies = blocks_of(model, run.path)[run.stop : run.stop + run.depth]
    return [(f"{run.path}.{place}", block) for place, block in enumerate(copies, run.stop)]


def take_out(model: nn.Module, optimizer: torch.optim.Optimizer, run: Run) -> None:
    """Undo `repeat` of the same run: the blocks behind it leave model and optimiser."""
    count = len(blocks_of(model, run.path))
    if count < run.stop + run.depth:
        raise GraftFailed(f"{run.path} has {count} blocks: blocks {run.start} to {run.stop} were not repeated")
    arrange(model, optimizer, run.path, [*range(run.stop), *range(run.stop + run.depth, count)])


def arrange(model: nn.Module, optimizer: torch.optim.Optimizer, path: str, order: Sequence[int]) -> None:
    """Let the container's blocks be its former blocks in this order; a block named again becomes a copy.

    Blocks that aren't named leave the optimiser too. A failure leaves everything as before.
    """
    container = model.get_submodule(path)
    former = blocks_of(model, path)
    new: list[nn.Module] = []
    copied: list[tuple[nn.Module, nn.Module]] = []
    for index in order:
        block = former[index]
        if any(block is there for there in new):
            copied.append((block, _copy_of(block, model, former)))
            block = copied[-1][1]
        new.append(block)
    _fill(container, new)
    try:
        undo_counts = rewrite(model, path, order, len(former))
        try:
            _join(optimizer, copied)
        except BaseException:
            undo_counts()
            raise
    except BaseException:
        _fill(container, former)
        raise
    _leave(optimizer, [block for index, block in enumerate(former) if index not in order], model)


def _fill(container: nn.Module, children: Sequence[nn.Module]) -> None:
    """The container's children are these, named by their places."""
    container._modules.clear()
    container._modules.update({str(index): child for index, child in enumerate(children)})


def _copy_of(block: nn.Module, model: nn.Module, neighbours: Sequence[nn.Module]) -> nn.Module:
    """A copy that owns what the block owns; what the block shares with the model or its neighbours stays shared.

    A block that is compiled gives its copy the graphs that it has.
    """
    elsewhere = _reachable(model, {block})
    tensors = [tensor for module in elsewhere for tensor in _tensors(module)]
    copied = independent_copy(block, "block", shared=[*elsewhere, *tensors, *_common_objects(block, neighbours)])
    compile_copy(block, copied)
    return copied


def _reachable(module: nn.Module, seen: set[nn.Module]) -> set[nn.Module]:
    """The module and everything below it that isn't seen already; a block put there is not entered."""
    found: set[nn.Module] = set()
    if module not in seen:
        seen.add(module)
        found.add(module)
        for child in module.children():
            found |= _reachable(child, seen)
    return found


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _common_objects(block: nn.Module, neighbours: Sequence[nn.Module]) -> Iterable[Any]:
    """Attributes, such as a configuration, that a neighbour holds as the same object."""
    peers = [dict(other.named_modules()) for other in neighbours if other is not block]
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or isinstance(value, (nn.Module, Tensor)):
                continue
            if any(getattr(peer.get(path), name, None) is value for peer in peers):
                yield value


def _join(optimizer: torch.optim.Optimizer, copied: Sequence[tuple[nn.Module, nn.Module]]) -> None:
    """Every copied parameter stands in its original's group, with a copy of what the optimiser remembers of it."""
    pairs = [pair for old, new in copied for pair in zip(old.parameters(), new.parameters(), strict=True)]
    copies = {original: twin for original, twin in pairs if original is not twin}
    for group in optimizer.param_groups:
        for original in [member for member in group["params"] if member in copies]:
            twin = copies[original]
            group["params"].append(twin)
            if original in optimizer.state:
                optimizer.state[twin] = {key: _cloned(value) for key, value in optimizer.state[original].items()}


def _leave(optimizer: torch.optim.Optimizer, gone: Sequence[nn.Module], model: nn.Module) -> None:
    kept = set(model.parameters())
    dropped = {parameter for block in gone for parameter in block.parameters()} - kept
    for group in optimizer.param_groups:
        group["params"][:] = [member for member in group["params"] if member not in dropped]
    for parameter in dropped:
        optimizer.state.pop(parameter, None)


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
