"""What falls due at a boundary beside directives: the score of an incubation, the probe of an isolated seed."""

from __future__ import annotations

from esper.kasmina.executor.judge.isolation import reachable_parameters
from esper.kasmina.executor.state import ExecutorState, Life
from esper.leyline import DirectiveKind, SeedDirective


def due_step(state: ExecutorState, directive: SeedDirective, step: int) -> int:
    """The step at which a directive is to be done: a seed that fades is taken out when it has faded."""
    life = state.lives.get(directive.seed_id)
    # What a paused seed waits with is put off by its pause, so it counts from its beginning.
    now = life.paused_step if life is not None and life.paused_step is not None else step
    due = directive.at_step if directive.HasField("at_step") else now
    if directive.kind == DirectiveKind.DIRECTIVE_KIND_REMOVE and life is not None and life.fade is not None:
        return max(due, life.fade_end_step)
    return due


def end_incubation(state: ExecutorState, life: Life, step: int) -> None:
    """Score an incubated seed on held-out samples once its time is over."""
    incubation = life.incubation
    if incubation is None or incubation.has_score or life.paused_step is not None or step < incubation.end_step:
        return
    key = state.key("incubation score", life.plan.seed_id, step)
    life.evidence.incubation_score = incubation.held_out(state.arm, state.task, key)
    state.side_macs += 2 * life.evidence.incubation_score.samples * state.macs.forward


def probe_isolation(state: ExecutorState, life: Life, step: int) -> None:
    """Count the host parameters that an isolated seed's gradients reach."""
    graft = state.arm.graft(life.plan.seed_id)
    if graft is None or not graft.is_isolated or graft.is_muted or life.is_permanent:
        return
    key = state.key("isolation", life.plan.seed_id, step)
    life.leaks += reachable_parameters(state.arm, graft, state.task.probe_inputs(), key=key, forward=state.task.forward)
