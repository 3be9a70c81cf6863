"""What the executor does for each directive: one function a kind, each done wholly or not at all.

An action returns the facts for its report, or None if it has only begun; a GraftFailed or torch error means that
everything is as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from google.protobuf.message import DecodeError

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blend import Blend
from esper.kasmina.executor.blueprints import build_seed
from esper.kasmina.executor.fold import fold, fold_obstacle
from esper.kasmina.executor.graft import Graft, SeedPlan
from esper.kasmina.executor.incubate import Incubation, shadow_graft
from esper.kasmina.executor.judge import judge, probe
from esper.kasmina.executor.macs import count_macs
from esper.kasmina.executor.optimizer_change import adjust_optimizer
from esper.kasmina.executor.remains import find_remains
from esper.kasmina.executor.state import SEED_BOUND, ExecutorState, Life, all_finite
from esper.leyline import BlendConfig, BlendSchedule, DirectiveKind, SeedDirective, SeedRecipe

Facts = dict[str, Any]
Action = Callable[[ExecutorState, SeedDirective, int], Facts | None]


def build(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Fetches the recipe, checks its digest, builds the seed; the host isn't touched."""
    if directive.seed_id in state.lives:
        raise GraftFailed(f"seed {directive.seed_id!r} is there already")
    content = state.fetch_artifact(directive.artifact_digest)
    digest = hashlib.sha256(content).hexdigest()
    if digest != directive.artifact_digest:
        raise GraftFailed(f"artefact {directive.artifact_digest!r} has digest {digest!r}: damaged or exchanged")
    try:
        recipe = SeedRecipe.FromString(content)
    except DecodeError as error:
        raise GraftFailed(f"artefact {digest!r} is no SeedRecipe: {error}") from error
    if recipe.blueprint_id != directive.blueprint_id:
        raise GraftFailed(f"artefact {digest!r} is for {recipe.blueprint_id!r}, expected {directive.blueprint_id!r}")
    values = {value.name: value.value for value in (*recipe.constants, *directive.parameters)}
    plan = SeedPlan(
        seed_id=directive.seed_id,
        slot_id=state.slot(directive.slot_id).slot_id,
        blueprint_id=directive.blueprint_id,
        factory=recipe.factory,
        parameters=tuple(sorted(values.items())),
        initialization_seed=directive.initialization_seed,
    )
    life = Life(plan=plan, module=grow(state, plan))
    state.lives[plan.seed_id] = life
    return {
        "digest_matched": True,
        "parameters_finite": all_finite(life.module),
        "added_parameters": sum(parameter.numel() for parameter in life.module.parameters()),
    }


def grow(state: ExecutorState, plan: SeedPlan) -> torch.nn.Module:
    """A new module for the plan, at the host's present sizes."""
    return build_seed(
        state.arm.model,
        state.slot(plan.slot_id),
        plan.factory,
        dict(plan.parameters),
        initialization_seed=plan.initialization_seed,
    )


def attach(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Puts the seed into the forward pass and the optimiser, and measures what that changes."""
    life = state.life(directive.seed_id)
    if state.arm.graft(directive.seed_id) is not None:
        raise GraftFailed(f"seed {directive.seed_id!r} is in the host's forward pass already")
    before = state.outputs()
    blend = Blend(config=directive.blend, start_step=step)
    graft = Graft(life.plan, state.slot(life.plan.slot_id), life.module, blend, is_isolated=directive.isolate)
    state.arm.attach(graft)
    try:
        after = state.outputs()
        if after.shape != before.shape or not bool(torch.isfinite(after).all()):
            raise GraftFailed(f"with seed {graft.seed_id} the host's outputs are {list(after.shape)} or not finite")
        costs = count_macs(state.arm, state.task.probe_inputs())
    except BaseException:
        state.arm.detach(graft)
        raise
    added = costs.forward - state.macs.forward
    _keep_incubated_state(state, life)
    life.loss_at_graft = state.smoothed_loss
    state.topology_changed()
    return {
        "max_logit_delta": float((after - before).abs().max()),
        "added_parameters": sum(parameter.numel() for parameter in life.module.parameters()),
        "added_forward_macs": max(0, added),
    }


def _keep_incubated_state(state: ExecutorState, life: Life) -> None:
    if life.incubation is not None:
        for parameter, remembered in life.incubation.optimizer.state.items():
            state.arm.optimizer.state[parameter] = remembered
        state.side_macs += life.incubation.macs
        life.incubation = None


def incubate(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Begins shadow training; the end is the boundary after its last step."""
    if directive.include_teacher:
        raise GraftFailed("distillation was asked for, but the executor holds no teacher; incubate without it")
    life = state.life(directive.seed_id)
    graft = shadow_graft(life.plan, state.slot(life.plan.slot_id), life.module, step)
    life.incubation = Incubation(graft, state.arm.optimizer, duration_steps=directive.duration_steps)
    return {}


def set_blend(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """A new blend, whose schedule begins now."""
    state.graft(directive.seed_id).set_blend(Blend(config=directive.blend, start_step=step))
    return {}


def snapshot_twin(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Copies the whole training state before a graft."""
    if state.twin is not None:
        raise GraftFailed("there is a twin already: only one graft is judged at a time")
    state.twin = state.arm.clone()
    state.twin_macs = state.macs
    # Whoever makes the steps lists the parameters of both arms anew.
    state.topology_changed()
    return {}


def run_probe(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Interface and muting probe; the result is the seed's evidence."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    life.evidence.probe = probe(state.arm, graft, state.task, key=state.key("probe", directive.seed_id, step))
    state.side_macs += 2 * life.evidence.probe.muted.samples * state.macs.forward
    return {}


def run_judge(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """One look at the grown arm, its twin and its muted self; the result is the seed's evidence."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    key = state.key("judge", directive.seed_id, step)
    result = judge(state.arm, state.twin, graft, state.task, look=directive.look, key=key)
    life.evidence.judgement = result
    twin_macs = state.twin_macs.forward if state.twin is not None else 0
    state.side_macs += result.muted.samples * (2 * state.macs.forward + twin_macs)
    return {}


def mute(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Alpha to zero at once; the seed stays."""
    _descend(state, directive.seed_id, step, 0, alpha=0.0)
    return {}


def fade(state: ExecutorState, directive: SeedDirective, step: int) -> None:
    """Alpha to zero over some steps; it is done when the seed is taken out, at the boundary after them."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    _descend(state, directive.seed_id, step, directive.duration_steps, alpha=graft.alpha)
    life.fade, life.fade_end_step = directive, step + directive.duration_steps


def _descend(state: ExecutorState, seed_id: str, step: int, steps: int, *, alpha: float) -> None:
    graft = state.graft(seed_id)
    config = BlendConfig()
    config.CopyFrom(graft.blend.config)
    config.alpha_start, config.alpha_target, config.schedule_steps = alpha, 0.0, steps
    config.schedule = BlendSchedule.BLEND_SCHEDULE_LINEAR
    graft.set_blend(Blend(config=config, start_step=step))


def fold_seed(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Makes the seed permanent: folded where that is possible, otherwise as the module that it is."""
    graft, life = state.graft(directive.seed_id), state.life(directive.seed_id)
    obstacle = fold_obstacle(state.arm, graft, step)
    if obstacle:
        life.is_permanent = True
        return {"folded": False, "failure": f"kept as a module: {obstacle}"}
    delta = fold(state.arm, graft, step, state.outputs)
    del state.lives[directive.seed_id]
    state.folded[graft.slot.slot_id] = state.folded.get(graft.slot.slot_id, 0) + 1
    state.topology_changed()
    return {"folded": True, "max_logit_delta": delta}


def install_twin(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """The host is as if it had never been grafted."""
    if state.twin is None:
        raise GraftFailed("there is no twin to install")
    state.arm, state.twin = state.twin, None
    for seed_id in [seed_id for seed_id in state.lives if state.arm.graft(seed_id) is None]:
        _forget(state, seed_id)
    for graft in state.arm.grafts:
        state.lives[graft.seed_id].module = graft.module
    state.topology_changed()
    return {}


def remove(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Takes the seed out of host, optimiser and hooks; one that is gone already is no failure."""
    graft = state.arm.graft(directive.seed_id)
    _forget(state, directive.seed_id)
    if graft is not None:
        state.arm.detach(graft)
        state.topology_changed()
    return {}


def _forget(state: ExecutorState, seed_id: str) -> None:
    life = state.lives.pop(seed_id, None)
    if life is not None and life.incubation is not None:
        state.side_macs += life.incubation.macs
    state.queue = [
        directive for directive in state.queue if directive.seed_id != seed_id or directive.kind not in SEED_BOUND
    ]


def drop_twin(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """The grown arm stays; a seed that is still a module is permanent from now on."""
    state.twin = None
    life = state.lives.get(directive.seed_id)
    if life is not None and state.arm.graft(directive.seed_id) is not None:
        life.is_permanent = True
    return {}


def check_reset(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Looks for remains of a removed seed."""
    return {"remains": find_remains(state, directive.seed_id)}


def change_optimizer(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """The same change in both arms: the twin differs by the seed alone."""
    for arm in filter(None, (state.arm, state.twin)):
        adjust_optimizer(arm, directive.optimizer)
    return {}


def nothing(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Pausing and resuming growth concern those who decide."""
    return {}


ACTIONS: dict[int, Action] = {
    DirectiveKind.DIRECTIVE_KIND_BUILD: build,
    DirectiveKind.DIRECTIVE_KIND_ATTACH: attach,
    DirectiveKind.DIRECTIVE_KIND_INCUBATE: incubate,
    DirectiveKind.DIRECTIVE_KIND_SET_BLEND: set_blend,
    DirectiveKind.DIRECTIVE_KIND_SNAPSHOT_TWIN: snapshot_twin,
    DirectiveKind.DIRECTIVE_KIND_PROBE: run_probe,
    DirectiveKind.DIRECTIVE_KIND_JUDGE: run_judge,
    DirectiveKind.DIRECTIVE_KIND_MUTE: mute,
    DirectiveKind.DIRECTIVE_KIND_FOLD: fold_seed,
    DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN: install_twin,
    DirectiveKind.DIRECTIVE_KIND_FADE: fade,
    DirectiveKind.DIRECTIVE_KIND_REMOVE: remove,
    DirectiveKind.DIRECTIVE_KIND_DROP_TWIN: drop_twin,
    DirectiveKind.DIRECTIVE_KIND_CHECK_RESET: check_reset,
    DirectiveKind.DIRECTIVE_KIND_ADJUST_OPTIMIZER: change_optimizer,
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
