"""How a stack stands in the host: grafted with proof that every copy works, evaluated beside its twin, undone.

A stack jumps: what it does to the logits is measured and is no fault. A graft that fails, also for lack of memory,
takes its copies out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.macs import count_macs
from esper.kasmina.executor.judge.parts import part_of
from esper.kasmina.executor.judge.scores import GRADIENT_SAMPLES, evaluate_stack
from esper.kasmina.executor.memory.exhausted import is_out_of_memory
from esper.kasmina.executor.passes.batches import first, first_inputs
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.stacks.ends import branch_ends
from esper.kasmina.executor.stacks.equal import difference
from esper.kasmina.executor.stacks.proof import prove
from esper.kasmina.executor.stacks.run import Run, blocks_of
from esper.kasmina.executor.state import ExecutorState, Facts, Life
from esper.kasmina.executor.twin import measured_twin
from esper.leyline import SeedDirective

FEW = 4
NUDGE = 0.02


def graft_stack(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Repeats the run, and proves that every copy ran once and that the loss reaches all of it."""
    life, arm = state.life(directive.seed_id), state.arm
    if life.run is not None:
        raise GraftFailed(f"stack {directive.seed_id!r} is in the host already")
    if state.twin is None:
        raise GraftFailed("a stack is undone by its twin alone, and there is none")
    run = state.stack_slots[life.plan.slot_id].part(arm.stacks, dict(life.plan.parameters))
    _refuse_changed(arm, run)
    before = state.outputs()
    ends = ends_of(arm, state.task, run) if state.config.halves_ends else ()
    copies = arm.repeat(run)
    whole = replace(run, stop=run.stop + run.depth)
    arm.scale_ends(whole, ends, 0.5)
    try:
        after = state.outputs()
        if after.shape != before.shape or not bool(torch.isfinite(after).all()):
            raise GraftFailed(f"with stack {directive.seed_id} the outputs are {list(after.shape)} or not finite")
        _prove(arm, state.task, run, copies, key=state.key("proof", directive.seed_id, step))
        costs = count_macs(arm, state.task.probe_inputs(), forward=state.task.forward)
    except BaseException:
        arm.scale_ends(whole, ends, 2.0)
        arm.take_out_copies()
        raise
    added = costs.forward - state.macs.forward
    life.run, life.loss_at_graft = run, state.smoothed_loss
    state.topology_changed()
    return {
        "max_logit_delta": float((after - before).abs().max()),
        "added_parameters": sum(parameter.numel() for _, block in copies for parameter in block.parameters()),
        "added_forward_macs": max(0, added),
    }


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a run that was repeated on a copy."""

    obstacle: str = ""
    """Why it can't be repeated; empty if it can."""
    ends: tuple[str, ...] = ()
    """The ends of a block's branches; none where they can't be told, or aren't halved."""


def try_stack(arm: TrainingArm, task: Task, run: Run, *, halves_ends: bool) -> Tried:
    """Repeats a run on a copy of a network that has made no step."""
    copied = arm.clone()
    try:
        ends = _ends_in_use(copied, task, run) if halves_ends else ()
        copies = copied.repeat(run)
        _prove(copied, task, run, copies, key=draw_key("stacks"))
    except torch.OutOfMemoryError:
        return Tried()  # whether there is room is for the graft to say, when it comes
    except (GraftFailed, ConfigError) as error:
        return Tried(str(error))
    except Exception as error:  # noqa: BLE001 - the host's own code, at a depth that nobody foresaw
        return Tried(f"at {len(blocks_of(copied.model, run.path))} blocks it ends in {in_words(error)}")
    return Tried(ends=ends)


def ends_of(arm: TrainingArm, task: Task, run: Run) -> tuple[str, ...]:
    """The layers that end the branches of each block of a run, by the last of them and a few samples."""
    inputs = first_inputs(task.probe_inputs(), FEW)
    block = run.blocks(arm.model)[-1]
    return branch_ends(arm.model, block, partial(task.forward, arm.model, inputs), key=draw_key("ends"))


def _ends_in_use(copied: TrainingArm, task: Task, run: Run) -> tuple[str, ...]:
    """The same of a copy that is thrown away: what begins at zero, as some ends do, is moved to have an effect."""
    generator = torch.Generator().manual_seed(draw_key("ends"))
    with torch.no_grad():
        for parameter in run.blocks(copied.model)[-1].parameters():
            parameter.add_(NUDGE * torch.randn(parameter.shape, generator=generator).to(parameter))
    return ends_of(copied, task, run)


def evaluate(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Both arms on the judging data; the result is one more piece of the stack's evidence."""
    life = state.life(directive.seed_id)
    twin = measured_twin(state)
    if life.run is None or twin is None:
        raise GraftFailed(f"stack {directive.seed_id!r} and its twin don't both stand")
    key = state.key("judge", directive.seed_id, step)
    part = part_of(state.task.judge_documents, directive.part, max(1, directive.parts))
    result = evaluate_stack(state.arm, twin, state.task, step=step, key=key, part=part)
    life.evidence.evaluations.append(result)
    work = (result.twin.samples if part is None else part.size) * (state.macs.forward + state.twin_macs.forward)
    state.side_macs += work
    state.evaluation_macs[directive.seed_id] = state.evaluation_macs.get(directive.seed_id, 0) + work
    return {}


def take_out(state: ExecutorState, life: Life) -> None:
    """Undoes a stack by hand, weights of the originals as they have become; for one whose twin is gone."""
    run = life.run
    if run is None or state.arm.stacks[-1:] != [run]:
        raise GraftFailed(f"stack {life.plan.seed_id} isn't the last repetition; only the last can be taken out")
    ends = ends_of(state.arm, state.task, run) if state.config.halves_ends else ()
    state.arm.take_out_copies()
    state.arm.scale_ends(run, ends, 2.0)
    state.topology_changed()


def _refuse_changed(arm: TrainingArm, run: Run) -> None:
    """Seeds inside the blocks would be copied half, and folded ones may have made blocks unequal."""
    inside = [graft.seed_id for graft in arm.grafts if graft.slot.write_path.startswith(f"{run.path}.")]
    if inside:
        raise GraftFailed(f"{run.slot_id} holds seeds of their own ({', '.join(inside)}): its blocks can't be repeated")
    for index, (left, right) in enumerate(pairwise(run.blocks(arm.model)), run.start):
        if found := difference(left, right):
            raise GraftFailed(f"blocks {index} and {index + 1} of {run.path} are no longer equal: {found}")


def _behind(arm: TrainingArm, run: Run) -> list[tuple[str, nn.Module]]:
    """Blocks that stand behind a run and its copies, with their paths."""
    first = run.stop + run.depth
    return [(f"{run.path}.{place}", block) for place, block in enumerate(blocks_of(arm.model, run.path)[first:], first)]


def _prove(arm: TrainingArm, task: Task, run: Run, copies: Sequence[tuple[str, nn.Module]], *, key: int) -> None:
    """By very few samples, because the pass is eager and in full precision: more would outweigh a training step.

    What fails with them, such as a path that few tokens take or samples that go in groups, is tried with more.
    """
    behind, original = _behind(arm, run), (f"{run.path}.{run.start}", run.blocks(arm.model)[0])
    try:
        prove(arm.model, copies, partial(_loss, arm, task, FEW), key=key, original=original, behind=behind)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        more = partial(_loss, arm, task, GRADIENT_SAMPLES)
        prove(arm.model, copies, more, key=key, original=original, behind=behind)


def _loss(arm: TrainingArm, task: Task, samples: int) -> Tensor:
    inputs, targets = first(next(iter(task.judge_batches())), samples)
    return task.loss(task.forward(arm.model, inputs), targets)
