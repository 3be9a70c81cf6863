"""Folding: a span seed's weights become part of the host's layers, so that the next seed reads the widened layer.

Layer k gains the seed's rows, BatchNorms between gain its channels, layer k+1 gains its columns; names stay. Outputs
are compared on the probe batch and a training pass is tried: a fold that changes those or breaks this is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.joins import JoiningSeed
from esper.kasmina.executor.fold.optimizer import State, merged_state, optimizer_obstacle
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.graft.surgery import Undo, replace_parameter, set_sizes
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.pretrained.config import Change, Pretrained, changes_of, find_pretrained, say
from esper.kasmina.executor.slots.between import ModuleStep, gates
from esper.kasmina.executor.slots.joining import joined, order_of
from esper.kasmina.executor.slots.layers import Side, growing_dim, reshape_obstacle
from esper.leyline import BlendMode

RELATIVE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
COARSE_TOLERANCE = 5e-2
# Draws that a layer has to be reached in one of: hosts may skip layers by chance.
TRIES = 4

Reached = Callable[[int], Collection[str]]
"""Names of the host's parameters that get a gradient in a training pass that is only tried, with draws of a number."""


@dataclass(frozen=True, slots=True)
class _Merge:
    """One host module, the seed's module that joins it, the side that grows, and in how many equal blocks."""

    host: nn.Module
    seed: nn.Module
    side: Side
    blocks: int


def fold_obstacle(arm: TrainingArm, graft: Graft, step: int) -> str:
    """Why the seed can't be folded now; empty if it can."""
    slot, model = graft.slot, arm.model
    if graft.is_muted:
        return "it is paused"
    if not slot.is_span or not isinstance(graft.module, JoiningSeed):
        return f"{graft.plan.blueprint_id} in {slot.slot_id} is not a span of its own weights"
    if graft.blend.mode not in (BlendMode.BLEND_MODE_RESIDUAL,) or graft.alpha != 1.0:
        return f"alpha is {graft.alpha:g} in mode {BlendMode.Name(graft.blend.mode)}, expected exactly 1 in RESIDUAL"
    if graft.blend.rate_factor_at(step) != 1.0:
        return "its learning-rate warm-up isn't over"
    layers = [join.path for join in graft.module.joins.values()]
    obstacles = (reshape_obstacle(path, model.get_submodule(path), may_be_grouped=True) for path in layers)
    known = slot.obstacle or next(filter(None, obstacles), "")
    return known or optimizer_obstacle(arm.optimizer) or _other_seed(arm, graft)


def fold(arm: TrainingArm, graft: Graft, step: int, outputs: Callable[[], Tensor], reached: Reached) -> float:
    """Folds the seed and returns the largest change of any output; an error means that nothing was changed."""
    if obstacle := fold_obstacle(arm, graft, step):
        raise GraftFailed(f"seed {graft.seed_id} can't be folded: {obstacle}")
    before = outputs()
    wanted = _widened(arm, graft) & set(reached(0))
    said = _sayings(arm, graft)
    undo: list[Undo] = []
    try:
        for merge in _merges(arm, graft):
            undo += _apply(arm, merge)
        undo += _count(arm, graft)
        undo += _say(said)
        graft.detach()
        delta = _checked_change(graft, before, outputs(), tolerance(next(arm.model.parameters()).dtype))
        _check_training(graft, wanted, reached)
    except BaseException:
        for revert in reversed(undo):
            revert()
        graft.detach()
        graft.attach(arm.model, arm.grafts)
        raise
    arm.detach(graft)
    return delta


def _checked_change(graft: Graft, before: Tensor, after: Tensor, relative: float) -> float:
    delta = float((after - before).abs().max())
    limit = relative * max(1.0, float(before.abs().max()))
    if not delta <= limit:
        raise GraftFailed(f"folding seed {graft.seed_id} changed an output by {delta:g}, allowed is {limit:g}")
    return delta


def _check_training(graft: Graft, wanted: set[str], reached: Reached) -> None:
    """The wider network trains: code that pairs shapes runs in training alone, and may hold on to the old layers."""
    missing = set(wanted)
    for number in range(TRIES):
        try:
            missing -= set(reached(number))
        except Exception as error:  # the host may fail in any way on shapes that it doesn't expect
            raise GraftFailed(f"folding seed {graft.seed_id} breaks a training pass: {in_words(error)}") from error
        if not missing:
            return
    raise GraftFailed(f"folding seed {graft.seed_id} leaves {', '.join(sorted(missing))} without gradient in training")


def _widened(arm: TrainingArm, graft: Graft) -> set[str]:
    """Names of the parameters that a fold replaces."""
    hosts = {id(merge.host) for merge in _merges(arm, graft)}
    modules = [(path, module) for path, module in arm.model.named_modules() if id(module) in hosts]
    return {f"{path}.{name}" for path, module in modules for name, _ in module.named_parameters(recurse=False)}


def tolerance(dtype: torch.dtype) -> float:
    """Largest change of an output that rounding explains, relative to the largest output."""
    return RELATIVE_TOLERANCE.get(dtype, COARSE_TOLERANCE)


def _other_seed(arm: TrainingArm, graft: Graft) -> str:
    """A permanent seed of fixed width on the activation that would grow."""
    others = [(other, part) for other in arm.grafts if other is not graft for part in other.parts]
    for slot in graft.parts:
        between = {step.path for step in slot.between if isinstance(step, ModuleStep)}
        written = {slot.read_path, *gates(slot.between)} | between
        for other, part in others:
            reads = part.read_path == slot.write_path if part.is_span else part.read_path in between
            if reads or part.write_path in written:
                return f"seed {other.seed_id} has a fixed width on the activation that would grow"
    return ""


def _merges(arm: TrainingArm, graft: Graft) -> Iterator[_Merge]:
    seed, model = graft.module, arm.model
    if not isinstance(seed, JoiningSeed):
        return
    for name, join in seed.joins.items():
        yield _Merge(model.get_submodule(join.path), seed.get_submodule(name), join.side, join.blocks)


def _apply(arm: TrainingArm, merge: _Merge) -> Iterator[Undo]:
    """Joins one module's parameters and buffers; each change is told as it is made, in case a later one fails."""
    yield lambda: set_sizes(merge.host)
    seed_parameters = dict(merge.seed.named_parameters(recurse=False))
    for name, old in list(merge.host.named_parameters(recurse=False)):
        if name not in seed_parameters:
            continue
        new, dim = seed_parameters[name], growing_dim(merge.host, name, merge.side)
        value = joined(old.data, new.data, dim, merge.blocks)
        state = _in_blocks(merged_state(arm.optimizer, old, new, dim), old, new, dim, merge.blocks)
        yield replace_parameter(merge.host, name, value, arm.optimizer, state)
    for name, buffer in list(merge.host.named_buffers(recurse=False)):
        if buffer.dim() > 0:
            yield _replace_buffer(merge.host, name, joined(buffer, merge.seed.get_buffer(name), 0))
    set_sizes(merge.host)


def _count(arm: TrainingArm, graft: Graft) -> Iterator[Undo]:
    """Raises what the host's modules count of the parts that have become more."""
    if not isinstance(graft.module, JoiningSeed):
        return
    for path, name, by in graft.module.counts:
        module = arm.model.get_submodule(path)
        before = getattr(module, name)
        yield partial(setattr, module, name, before)
        setattr(module, name, before + by)


def _sayings(arm: TrainingArm, graft: Graft) -> list[tuple[Pretrained, list[Change]]]:
    """What configurations must say once the seed has become a part of their networks."""
    amount = int(dict(graft.plan.parameters).get("heads" if graft.slot.heads is not None else "width", 0))
    changes = changes_of(arm.model, graft.parts[0], amount)
    path = graft.slot.read_path
    return [(found, changes) for found in find_pretrained(arm.model) if path.startswith(found.prefix)]


def _say(said: list[tuple[Pretrained, list[Change]]]) -> Iterator[Undo]:
    """A configuration that can't say it stays as it is: such a network is exported with a loader."""
    for pretrained, changes in said:
        if (undo := say(pretrained, changes)) is not None:
            yield undo


def _in_blocks(state: State, old: Tensor, new: Tensor, dim: int, blocks: int) -> State:
    """What an optimiser remembers, merged as if there were one block, in the order of so many."""
    if blocks == 1:
        return state
    shape = list(old.shape)
    shape[dim] += new.shape[dim]
    values = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.dim() > 0}
    if any(list(value.shape) != shape for value in values.values()):
        raise GraftFailed("the optimiser remembers less than a value for each weight: its state can't be reordered")
    order = order_of(old.shape[dim], new.shape[dim], blocks, old.device)
    return {**state, **{name: value.index_select(dim, order) for name, value in values.items()}}


def _replace_buffer(module: nn.Module, name: str, value: Tensor) -> Undo:
    old = module.get_buffer(name)
    setattr(module, name, value)
    return lambda: setattr(module, name, old)
