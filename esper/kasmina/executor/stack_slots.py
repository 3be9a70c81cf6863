"""Stack slots: runs of equal blocks as places to grow, with the sizes and the work of one block.

A slot outlives its grafts: the run of now is the run that was found, longer by every repetition that the arm holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.judge.macs import counting
from esper.kasmina.executor.passes.batches import Forward, called, samples_in
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.stacks.run import PREFIX, Refusal, Run, blocks_of, find_runs, named_run
from esper.leyline import SlotKind, SlotSpec

STACK_FACTORIES = frozenset({"stack.double", "stack.part"})
PART = "blocks"
"""Parameter of a recipe: how many of the run's last blocks are repeated; without it, all of them."""
FEATURE_MAP_DIMS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """How deep a run of equal blocks was found, how deep it is, and the blocks of its list that are none of it."""

    found: int
    now: int
    others: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSlot:
    """A run of blocks as it was found, and what one of them is."""

    run: Run
    order: int
    features: int
    positions: int
    block_parameters: int
    block_forward_macs: int

    @property
    def slot_id(self) -> str:
        return self.run.slot_id

    def now(self, repeated: Sequence[Run]) -> Run:
        """The run with its copies; `repeated` are the repetitions that an arm holds."""
        added = sum(run.depth for run in repeated if run.path == self.run.path)
        return replace(self.run, stop=self.run.stop + added)

    def depth(self, model: nn.Module, repeated: Sequence[Run]) -> Depth:
        now = self.now(repeated).depth
        return Depth(found=self.run.depth, now=now, others=len(blocks_of(model, self.run.path)) - now)

    def part(self, repeated: Sequence[Run], parameters: Mapping[str, float]) -> Run:
        """The blocks that a graft repeats: all of the run, or its last ones. Raises GraftFailed if it has fewer."""
        whole = self.now(repeated)
        blocks = int(parameters.get(PART, whole.depth))
        if not 1 <= blocks <= whole.depth:
            raise GraftFailed(f"{self.slot_id} has {whole.depth} blocks; {blocks} of them can't be repeated")
        return replace(whole, start=whole.stop - blocks)

    def spec(self, repeated: Sequence[Run]) -> SlotSpec:
        """The slot as the services know it, with the depth of now."""
        return SlotSpec(
            slot_id=self.slot_id,
            kind=SlotKind.SLOT_KIND_STACK,
            read_path=self.run.path,
            write_path=self.run.path,
            in_features=self.features,
            out_features=self.features,
            width=self.features,
            read_positions=self.positions,
            write_positions=self.positions,
            read_kernel=1,
            write_kernel=1,
            is_foldable=False,
            fold_obstacle="a stack is part of the host as soon as it is grafted",
            order=self.order,
            depth=self.now(repeated).depth,
            block_parameters=self.block_parameters,
            block_forward_macs=self.block_forward_macs,
        )


def find_stacks(
    model: nn.Module, inputs: Any, *, named: Sequence[str] | None, forward: Forward = called
) -> tuple[list[StackSlot], list[Refusal]]:
    """The runs that the model offers or the user names, and the lists of blocks that are none, with the reason.

    Raises ConfigError for a name that is no run.
    """
    if named is not None:
        found = [named_run(model, inputs, name, forward=forward) for name in named]
        return [_slot(model, inputs, run, forward) for run in found], []
    try:
        runs, refusals = find_runs(model, inputs, forward=forward)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code under hooks; a host without stacks can still be grown
        return [], [Refusal("the model", f"looking for runs of blocks ended in {in_words(error)}")]
    return [_slot(model, inputs, run, forward) for run in runs], refusals


def is_stack_name(name: str) -> bool:
    return name.startswith(PREFIX)


def _slot(model: nn.Module, inputs: Any, run: Run, forward: Forward) -> StackSlot:
    block = run.blocks(model)[-1]
    shape, macs = _work_of(model, block, inputs, forward)
    is_map = len(shape) == FEATURE_MAP_DIMS
    return StackSlot(
        run=run,
        order=0,
        features=shape[1] if is_map else shape[-1],
        positions=max(1, math.prod(shape[2:] if is_map else shape[1:-1])),
        block_parameters=sum(parameter.numel() for parameter in block.parameters()),
        block_forward_macs=macs // samples_in(inputs),
    )


def _work_of(model: nn.Module, block: nn.Module, inputs: Any, forward: Forward) -> tuple[tuple[int, ...], int]:
    """Shape of what the block reads, and its multiply-accumulates for all inputs.

    Counted as the model calls it: run again by itself, a block would find its cache filled.
    """
    read: list[tuple[Any, ...]] = []
    work: list[int] = []
    with side_pass([model], key=draw_key("stacks"), training=False), torch.no_grad(), counting() as so_far:

        def begin(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            read.append((*arguments, *options.values()))
            work.append(-so_far())

        handles = [
            block.register_forward_pre_hook(begin, with_kwargs=True),
            block.register_forward_hook(lambda *_: work.append(so_far())),
        ]
        try:
            forward(model, inputs)
        finally:
            for handle in handles:
                handle.remove()
    return next(tuple(value.shape) for value in read[0] if isinstance(value, Tensor)), sum(work)
