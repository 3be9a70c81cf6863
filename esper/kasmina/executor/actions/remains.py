"""Whether anything of a removed seed is left: in hooks, optimiser, twin, lives or the queue."""

from __future__ import annotations

from collections.abc import Iterator

from esper.kasmina.executor.graft.graft import CallTap, ConfidenceTap, ReadTap, WriteTap
from esper.kasmina.executor.graft.masks import MaskTap
from esper.kasmina.executor.graft.wiring import seed_groups
from esper.kasmina.executor.state import SEED_BOUND, ExecutorState


def find_remains(state: ExecutorState, seed_id: str) -> list[str]:
    """What is left, in words; empty means clean."""
    remains = []
    for path, module in state.arm.model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        of_seeds = [
            hook.graft.seed_id for hook in hooks if isinstance(hook, (ReadTap, CallTap, WriteTap, ConfidenceTap))
        ]
        if seed_id in (*of_seeds, *(hook.masks.seed_id for hook in hooks if isinstance(hook, MaskTap))):
            remains.append(f"a tap on {path or 'the model'}")
    if state.arm.graft(seed_id) is not None:
        remains.append("a graft of the main arm")
    if state.twin is not None and state.twin.graft(seed_id) is not None:
        remains.append("a graft of the twin")
    if seed_groups(state.arm.optimizer, seed_id):
        remains.append("a parameter group of the optimiser")
    known = {id(member) for group in state.arm.optimizer.param_groups for member in group["params"]}
    if any(id(parameter) not in known for parameter in state.arm.optimizer.state):
        remains.append("optimiser state of a parameter that is in no group")
    # There is one twin at a time; with another seed alive it is that seed's.
    if state.twin is not None and not state.lives.keys() - {seed_id}:
        remains.append("a twin")
    remains += _unkept_repetitions(state)
    if seed_id in state.lives:
        remains.append("the seed's record")
    if any(directive.seed_id == seed_id and directive.kind in SEED_BOUND for directive in state.queue):
        remains.append("a directive that waits for its step")
    return remains


def _unkept_repetitions(state: ExecutorState) -> Iterator[str]:
    """Repetitions of a run beyond those that were kept and those that are being judged."""
    for slot_id, slot in state.stack_slots.items():
        repeated = sum(run.path == slot.run.path for run in state.arm.stacks)
        living = sum(life.run is not None and life.plan.slot_id == slot_id for life in state.lives.values())
        if repeated > state.folded.get(slot_id, 0) + living:
            yield f"a repetition of {slot_id} that nobody keeps"
