"""The twin's life: made where there is room for it, brought up to date, installed, dropped, or put in at once.

A graft for whose twin there is no room is refused before anything is copied. Where memory runs out later all the same,
the twin takes the grown arm's place: the run is then the one that never grew.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch

from esper.core.errors import GraftFailed
from esper.kasmina.executor.collected import MemoryNote
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.macs import count_macs
from esper.kasmina.executor.memory.bursts import Bursts, TwinAtHand
from esper.kasmina.executor.memory.exhausted import first_line, is_out_of_memory
from esper.kasmina.executor.memory.footprint import Held, held_by_blocks, held_by_seed
from esper.kasmina.executor.memory.forecast import (
    BURSTS,
    LIVE,
    REFUSED,
    Decision,
    Figures,
    decide,
    foresee,
    switched,
    unforeseen,
)
from esper.kasmina.executor.memory.free import host_memory
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.state import ExecutorState

ENDED, UNDONE = "ended", "undone"


def make_twin(state: ExecutorState, seed_id: str, step: int) -> None:
    """Copies the whole training state, or refuses to for lack of memory. Raises GraftFailed."""
    decision = room(state, seed_id)
    if state.config.agreed is not None:
        decision = state.config.agreed(decision)
    if decision.mode == REFUSED:
        refuse(state, seed_id, step, decision)
    state.begin_twin_phase()
    try:
        with _without_gradients(state.arm) if decision.mode == BURSTS else nullcontext():
            state.twin = state.arm.clone()
        if decision.mode == BURSTS:
            state.bursts = Bursts(state.arm, state.twin, step)
    except Exception as error:
        state.twin = None
        if not is_out_of_memory(error):
            raise
        why = f"copying the network ended in {first_line(error)}, though {decision.why}"
        refuse(state, seed_id, step, switched(decision, REFUSED, why))
    state.twin_decision = decision
    state.twin_seed = seed_id
    note(state, seed_id, step, decision)


def refuse(state: ExecutorState, seed_id: str, step: int, decision: Decision) -> None:
    """Raises GraftFailed, now and for whatever else is ordered for the seed."""
    why = f"no room for a twin: {decision.why}"
    state.given_up[seed_id] = why
    note(state, seed_id, step, decision)
    raise GraftFailed(why)


def room(state: ExecutorState, seed_id: str) -> Decision:
    """How the twin of the seed that is to be grafted can live."""
    config, arm = state.config, state.arm
    # Arms of trials and of earlier twins hold themselves in circles: what nobody wants is neither held nor taken.
    gc.collect()
    try:
        added, blocks = _added(state, seed_id)
        forecast = foresee(
            arm,
            state.task,
            added=added,
            samples=config.pass_samples,
            key=state.key("memory", seed_id),
            blocks=blocks,
            gradient_rows=config.gradient_rows,
            accumulates=config.accumulates,
            precision=config.precision,
            measured_step=state.peaks.step_bytes(state.topology),
        )
    except Exception as error:  # noqa: BLE001 - the host runs under a counter of operators, and may raise anything
        return unforeseen(config.twin, in_words(error))
    state.side_macs += forecast.passed_samples * state.macs.training + forecast.judged_samples * state.macs.forward
    host = None if arm.device.type == "cpu" else host_memory()
    return decide(config.twin, forecast, config.free_memory(arm.device), host)


def _added(state: ExecutorState, seed_id: str) -> tuple[Held, tuple[torch.nn.Module, ...]]:
    """What the graft adds to the arm, and the blocks that it repeats. A module that isn't built counts as nothing."""
    life, ordered = state.lives.get(seed_id), state.to_build.get(seed_id)
    if life is not None:
        slot_id, values = life.plan.slot_id, dict(life.plan.parameters)
    elif ordered is not None:
        slot_id, values = ordered.slot_id, {value.name: value.value for value in ordered.parameters}
    else:
        return Held(), ()
    if (stack := state.stack_slots.get(slot_id)) is not None:
        blocks = tuple(stack.part(state.arm.stacks, values).blocks(state.arm.model))
        return held_by_blocks(state.arm, blocks), blocks
    return (Held() if life is None else held_by_seed(state.arm, life.module)), ()


def note(state: ExecutorState, seed_id: str, step: int, decision: Decision) -> None:
    state.memory_notes.append(
        MemoryNote(seed_id=seed_id, step=step, mode=decision.mode, why=decision.why, figures=decision.figures())
    )


def end_twin(state: ExecutorState, step: int) -> None:
    """The twin is in the arm's place or gone: what the two took at their peak is told."""
    state.twin, state.bursts, decision = None, None, state.twin_decision
    # Norms of an arm that is gone would keep its parameters, and their gradients, on the device.
    here = {parameter for module in state.arm.modules for parameter in module.parameters()}
    state.measured_norms = {parameter: norm for parameter, norm in state.measured_norms.items() if parameter in here}
    peak = state.end_twin_phase()
    if decision is not None:
        figures: Figures = {
            "measured_bytes": None if peak is None else peak - state.other_bytes,
            "other_bytes": state.other_bytes,
        }
        why = state.peaks.unmeasured or "peak of both arms, without what was there beside them"
        state.memory_notes.append(MemoryNote(seed_id=state.twin_seed, step=step, mode=ENDED, why=why, figures=figures))
    state.twin_decision, state.twin_seed = None, ""


def put_in_twin(state: ExecutorState, step: int) -> None:
    """The twin as after `step` steps is the arm of the run. A failure leaves both as they were."""
    twin = state.twin
    if twin is None:
        raise GraftFailed("there is no twin to install")
    if state.bursts is not None:
        state.bursts.release(state.arm, step, state.step_twin)
    state.arm = _installed(state, twin)
    end_twin(state, step)


def give_up_grown(state: ExecutorState, step: int) -> None:
    """The same where the grown arm has run out of memory: nothing of it is kept for a return."""
    grown, twin = state.arm, state.twin
    if twin is None:
        raise GraftFailed("there is no twin to install")
    for module in grown.modules:
        for parameter in module.parameters():
            parameter.grad = None
    if state.bursts is not None:
        state.bursts.replace(grown, step, state.step_twin)
    state.arm = _installed(state, twin)
    end_twin(state, step)


def _installed(state: ExecutorState, twin: TrainingArm) -> TrainingArm:
    """The arm of the run from now on."""
    if not state.config.is_in_place:
        return twin
    state.arm.take_over(twin)
    return state.arm


def let_wait(state: ExecutorState, step: int, why: str) -> None:
    """A live twin that has made `step` steps makes the others in bursts. Raises what keeps it from waiting."""
    if state.twin is None or state.twin_decision is None:
        raise GraftFailed("there is no twin that could wait")
    state.bursts = Bursts(state.arm, state.twin, step)
    state.twin_decision = switched(state.twin_decision, BURSTS, why)
    note(state, state.twin_seed, step, state.twin_decision)


def bring_back(state: ExecutorState) -> str:
    """The arm that made room for its twin, and found none to return to while an error held the memory, is there again.

    Why not, where there is no room for it without the error either; "" otherwise.
    """
    if state.bursts is None or not state.bursts.is_grown_aside:
        return ""
    gc.collect()
    try:
        state.bursts.bring_back()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return first_line(error)
    return ""


def measured_twin(state: ExecutorState) -> TrainingArm | None:
    """The twin for whoever measures it; one that waits is at hand while it is measured."""
    if state.twin is None or state.bursts is None:
        return state.twin
    return cast(TrainingArm, TwinAtHand(state.twin_at_hand))


def count_waiting_twin(state: ExecutorState) -> None:
    """Count the work of a twin that waits, after a change of what it holds."""
    if state.twin is not None and state.bursts is not None:
        with state.twin_at_hand() as twin:
            state.twin_macs = count_macs(twin, state.task.probe_inputs(), forward=state.task.forward)


def pace(state: ExecutorState) -> dict[str, object]:
    """What a checkpoint says of the twin: its mode and why, its own number of steps, and whose it is."""
    decision = state.twin_decision or Decision(mode=LIVE, why="")
    return {
        "mode": decision.mode,
        "why": decision.why,
        "steps_made": state.steps_done if state.bursts is None else state.bursts.steps_made,
        "seed_id": state.twin_seed,
        "predicted_bytes": decision.predicted_bytes,
        "free_bytes": decision.free_bytes,
        "other_bytes": state.other_bytes,
    }


@contextmanager
def _without_gradients(arm: TrainingArm) -> Iterator[None]:
    """Copies of them would be of no use, and need memory."""
    parameters = [parameter for module in arm.modules for parameter in module.parameters()]
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
