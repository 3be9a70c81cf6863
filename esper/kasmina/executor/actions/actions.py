"""What the executor does for each directive: one function a kind, each done wholly or not at all.

An action returns the facts for its report, or None if it has only begun; a GraftFailed or torch error means that
everything is as before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from esper.core.errors import GraftFailed
from esper.kasmina.executor.actions.entering import attach, build, drop_teacher, incubate
from esper.kasmina.executor.actions.optimizer_change import adjust_optimizer
from esper.kasmina.executor.actions.pause import mute, unmute
from esper.kasmina.executor.actions.remains import find_remains
from esper.kasmina.executor.actions.stacking import evaluate, graft_stack, take_out
from esper.kasmina.executor.fold.fold import fold, fold_obstacle
from esper.kasmina.executor.fold.merge import is_adapter, merge, merge_obstacle
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.blend import Blend
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.judge.scores import GRADIENT_SAMPLES, judge, probe
from esper.kasmina.executor.judge.training_pass import try_training
from esper.kasmina.executor.state import SEED_BOUND, ExecutorState, Facts
from esper.kasmina.executor.twin import count_waiting_twin, end_twin, make_twin, measured_twin, put_in_twin
from esper.leyline import BlendConfig, BlendSchedule, DirectiveKind, SeedDirective

Action = Callable[[ExecutorState, SeedDirective, int], Facts | None]


def set_blend(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """A new blend, whose schedule begins now; one that the host can't feed leaves the old one in place."""
    graft, arm = state.graft(directive.seed_id), state.arm
    before = graft.blend
    try:
        graft.set_blend(Blend(config=directive.blend, start_step=step))
        graft.watch_logits(arm.model, arm.grafts)
        state.outputs()
    except BaseException:
        graft.set_blend(before)
        graft.watch_logits(arm.model, arm.grafts)
        raise
    return {}


def snapshot_twin(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Copies the whole training state before a graft, if there is room for it."""
    if state.twin is not None:
        raise GraftFailed("there is a twin already: only one graft is judged at a time")
    make_twin(state, directive.seed_id, step)
    state.twin_macs = state.macs
    # Whoever makes the steps lists the parameters of both arms anew.
    state.topology_changed()
    return {}


def enter(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Puts a seed into the forward pass, or a run's copies behind it."""
    is_stack = directive.slot_id in state.stack_slots
    return (graft_stack if is_stack else attach)(state, directive, step)


def run_probe(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Interface and muting probe; the result is the seed's evidence."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    life.evidence.probe = probe(state.arm, graft, state.task, key=state.key("probe", directive.seed_id, step))
    samples = life.evidence.probe.muted.samples
    state.side_macs += 2 * (samples * state.macs.forward + min(GRADIENT_SAMPLES, samples) * state.macs.training)
    return {}


def run_judge(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """One look at the grown arm, its twin and its muted self; the result is the seed's evidence."""
    life = state.life(directive.seed_id)
    if life.plan.slot_id in state.stack_slots:
        return evaluate(state, directive, step)
    graft = state.graft(directive.seed_id)
    key = state.key("judge", directive.seed_id, step)
    result = judge(state.arm, measured_twin(state), graft, state.task, look=directive.look, key=key)
    life.evidence.judgement = result
    twin_macs = state.twin_macs.forward if state.twin is not None else 0
    state.side_macs += result.muted.samples * (2 * state.macs.forward + twin_macs)
    return {}


def fade(state: ExecutorState, directive: SeedDirective, step: int) -> None:
    """Alpha to zero over some steps; it is done when the seed is taken out, at the boundary after them."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    _descend(state, directive.seed_id, step, directive.duration_steps, alpha=graft.alpha)
    life.fade, life.fade_end_step = directive, step + directive.duration_steps


def _descend(state: ExecutorState, seed_id: str, step: int, steps: int, *, alpha: float) -> None:
    config = BlendConfig()
    config.CopyFrom(state.graft(seed_id).blend.config)
    config.alpha_start, config.alpha_target, config.schedule_steps = alpha, 0.0, steps
    config.schedule = BlendSchedule.BLEND_SCHEDULE_LINEAR
    state.catch_up()
    for _, graft in _in_both_arms(state, seed_id):
        graft.set_blend(Blend(config=config, start_step=step))


def _in_both_arms(state: ExecutorState, seed_id: str) -> list[tuple[TrainingArm, Graft]]:
    """An earlier seed is in the twin too, and leaves it as it leaves the main arm."""
    arms = [state.arm] if state.twin is None else [state.arm, state.twin]
    return [(arm, graft) for arm in arms if (graft := arm.graft(seed_id)) is not None]


def fold_seed(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Makes the seed permanent: folded where that is possible, otherwise, or if it fails, as the module that it is."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    life.is_permanent = True
    is_merged = is_adapter(graft)
    obstacle = (merge_obstacle if is_merged else fold_obstacle)(state.arm, graft, step)
    if obstacle:
        return {"folded": False, "failure": f"kept as a module: {obstacle}"}

    def reached(number: int) -> Collection[str]:
        tried = try_training(state.arm, state.task, key=state.key("fold", directive.seed_id, number))
        state.side_macs += tried.samples * state.macs.training
        return tried.reached

    if is_merged:
        delta = merge(state.arm, graft, state.outputs)
    else:
        delta = fold(state.arm, graft, step, state.outputs, reached)
    del state.lives[directive.seed_id]
    state.folded[graft.slot.slot_id] = state.folded.get(graft.slot.slot_id, 0) + 1
    state.topology_changed()
    added = {"added_parameters": 0, "added_forward_macs": 0} if is_merged else {}
    return {"folded": True, "max_logit_delta": delta, **added}


def install_twin(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """The host is as if it had never been grafted; also where memory refused the graft or has undone it."""
    if state.twin is None and directive.seed_id in state.given_up:
        _forget(state, directive.seed_id)
        return {}
    put_in_twin(state, step)
    settle_in(state)
    return {}


def settle_in(state: ExecutorState) -> None:
    """The twin has become the arm: what isn't in it is forgotten."""
    for seed_id in [seed_id for seed_id in state.lives if state.arm.graft(seed_id) is None]:
        _forget(state, seed_id)
    for graft in state.arm.grafts:
        state.lives[graft.seed_id].module = graft.module
    state.topology_changed()


def remove(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Takes the seed out of host, optimiser and hooks; one that is gone already is no failure."""
    life = state.lives.get(directive.seed_id)
    if life is not None and life.run is not None:
        take_out(state, life)
    _forget(state, directive.seed_id)
    hanging = _in_both_arms(state, directive.seed_id)
    if hanging:
        state.catch_up()
    for arm, graft in hanging:
        arm.detach(graft)
    if hanging:
        state.topology_changed()
        count_waiting_twin(state)
    return {}


def _forget(state: ExecutorState, seed_id: str) -> None:
    life = state.lives.pop(seed_id, None)
    if life is not None and life.incubation is not None:
        state.side_macs += life.incubation.macs
    state.queue = [
        directive for directive in state.queue if directive.seed_id != seed_id or directive.kind not in SEED_BOUND
    ]


def drop_twin(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """The grown arm stays; a seed that is still a module is permanent from now on, a stack is part of the host."""
    if state.twin is not None:
        end_twin(state, step)
    life = state.lives.get(directive.seed_id)
    if life is not None and life.run is not None:
        slot_id = life.plan.slot_id
        state.folded[slot_id] = state.folded.get(slot_id, 0) + 1
        _forget(state, directive.seed_id)
    if life is not None and state.arm.graft(directive.seed_id) is not None:
        life.is_permanent = True
    return {}


def check_reset(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Looks for remains of a removed seed."""
    return {"remains": find_remains(state, directive.seed_id)}


def change_optimizer(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """The same change in both arms: the twin differs by the seed alone."""
    state.catch_up()
    for arm in filter(None, (state.arm, state.twin)):
        adjust_optimizer(arm, directive.optimizer)
    return {}


def nothing(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Pausing and resuming growth concern those who decide."""
    return {}


ACTIONS: dict[int, Action] = {
    DirectiveKind.DIRECTIVE_KIND_BUILD: build,
    DirectiveKind.DIRECTIVE_KIND_ATTACH: enter,
    DirectiveKind.DIRECTIVE_KIND_INCUBATE: incubate,
    DirectiveKind.DIRECTIVE_KIND_SET_BLEND: set_blend,
    DirectiveKind.DIRECTIVE_KIND_SNAPSHOT_TWIN: snapshot_twin,
    DirectiveKind.DIRECTIVE_KIND_PROBE: run_probe,
    DirectiveKind.DIRECTIVE_KIND_JUDGE: run_judge,
    DirectiveKind.DIRECTIVE_KIND_MUTE: mute,
    DirectiveKind.DIRECTIVE_KIND_UNMUTE: unmute,
    DirectiveKind.DIRECTIVE_KIND_FOLD: fold_seed,
    DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN: install_twin,
    DirectiveKind.DIRECTIVE_KIND_FADE: fade,
    DirectiveKind.DIRECTIVE_KIND_REMOVE: remove,
    DirectiveKind.DIRECTIVE_KIND_DROP_TWIN: drop_twin,
    DirectiveKind.DIRECTIVE_KIND_CHECK_RESET: check_reset,
    DirectiveKind.DIRECTIVE_KIND_ADJUST_OPTIMIZER: change_optimizer,
    DirectiveKind.DIRECTIVE_KIND_DROP_TEACHER: drop_teacher,
    DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH: nothing,
    DirectiveKind.DIRECTIVE_KIND_RESUME_GROWTH: nothing,
}

# The trainer's own: it alone can restore checkpoints and stop.
RUN_WIDE = frozenset({DirectiveKind.DIRECTIVE_KIND_ROLLBACK, DirectiveKind.DIRECTIVE_KIND_HALT})


def action_of(directive: SeedDirective) -> Action:
    """The directive's action; a kind that this executor doesn't know is refused."""
    action = ACTIONS.get(directive.kind)
    if action is None:
        raise GraftFailed(f"this executor doesn't know directive kind {directive.kind}")
    return action
