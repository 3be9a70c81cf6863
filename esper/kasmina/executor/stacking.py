"""How a stack stands in the host: grafted with proof that every copy works, evaluated beside its twin, undone.

A stack jumps: what it does to the logits is measured and is no fault. A graft that fails, also for lack of memory,
takes its copies out again.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from esper.kasmina.executor.passes.batches import first
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.stacks.equal import difference
from esper.kasmina.executor.stacks.proof import prove
from esper.kasmina.executor.stacks.run import Run, blocks_of
from esper.kasmina.executor.state import ExecutorState, Facts, Life
from esper.kasmina.executor.twin import measured_twin
from esper.leyline import SeedDirective

FEW = 4


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
    copies = arm.repeat(run)
    try:
        after = state.outputs()
        if after.shape != before.shape or not bool(torch.isfinite(after).all()):
            raise GraftFailed(f"with stack {directive.seed_id} the outputs are {list(after.shape)} or not finite")
        _prove(arm, state.task, run, copies, key=state.key("proof", directive.seed_id, step))
        costs = count_macs(arm, state.task.probe_inputs(), forward=state.task.forward)
    except BaseException:
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


def stack_obstacle(arm: TrainingArm, task: Task, run: Run) -> str:
    """Why a run can't be repeated, tried on a copy of a network that has made no step; empty if it can."""
    copied = arm.clone()
    try:
        copies = copied.repeat(run)
        _prove(copied, task, run, copies, key=draw_key("stacks"))
    except torch.OutOfMemoryError:
        return ""  # whether there is room is for the graft to say, when it comes
    except (GraftFailed, ConfigError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the host's own code, at a depth that nobody foresaw
        return f"at {len(blocks_of(copied.model, run.path))} blocks it ends in {in_words(error)}"
    return ""


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
    if state.arm.stacks[-1:] != [life.run]:
        raise GraftFailed(f"stack {life.plan.seed_id} isn't the last repetition; only the last can be taken out")
    state.arm.take_out_copies()
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
    behind = _behind(arm, run)
    try:
        prove(arm.model, copies, partial(_loss, arm, task, FEW), key=key, behind=behind)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        prove(arm.model, copies, partial(_loss, arm, task, GRADIENT_SAMPLES), key=key, behind=behind)


def _loss(arm: TrainingArm, task: Task, samples: int) -> Tensor:
    inputs, targets = first(next(iter(task.judge_batches())), samples)
    return task.loss(task.forward(arm.model, inputs), targets)
