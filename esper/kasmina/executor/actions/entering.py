"""How a seed enters: built from a verified recipe, incubated beside the host, attached with the effect measured.

An attachment that fails leaves hooks, optimiser and host as they were.
"""

from __future__ import annotations

import hashlib

import torch
from google.protobuf.message import DecodeError

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints import build_seed
from esper.kasmina.executor.graft.blend import Blend
from esper.kasmina.executor.graft.graft import Graft, SeedPlan
from esper.kasmina.executor.graft.masks import REMEDY, masks_given
from esper.kasmina.executor.graft.padding import sign_of_padding
from esper.kasmina.executor.judge.incubate import Incubation, shadow_graft
from esper.kasmina.executor.judge.macs import count_macs
from esper.kasmina.executor.judge.teacher import Teacher
from esper.kasmina.executor.pretrained.regroup import refusal
from esper.kasmina.executor.stack_slots import STACK_FACTORIES
from esper.kasmina.executor.state import REFUSE, ExecutorState, Facts, Life, all_finite
from esper.leyline import SeedDirective, SeedRecipe


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
    values = {value.name: value.value for value in directive.parameters}
    plan = SeedPlan(
        seed_id=directive.seed_id,
        slot_id=directive.slot_id,
        blueprint_id=directive.blueprint_id,
        factory=recipe.factory,
        parameters=tuple(sorted(values.items())),
        initialization_seed=directive.initialization_seed,
    )
    stack = state.stack_slots.get(plan.slot_id)
    if (stack is not None) != (plan.factory in STACK_FACTORIES):
        raise GraftFailed(f"{plan.factory} can't be grafted in slot {plan.slot_id!r}: one of them is a stack's")
    _refuse_unsayable(state, plan)
    life = Life(plan=plan, module=grow(state, plan))
    remark = _seen_padding(state, life, step)
    added = sum(parameter.numel() for parameter in life.module.parameters())
    if stack is not None:
        added = stack.part(state.arm.stacks, values).depth * stack.block_parameters
    state.lives[plan.seed_id] = life
    sound: Facts = {"digest_matched": True, "parameters_finite": all_finite(life.module), "added_parameters": added}
    return {**sound, "failure": remark} if remark else sound


def _refuse_unsayable(state: ExecutorState, plan: SeedPlan) -> None:
    """A width that a configuration can't say, unless a loader may say it."""
    slot, parameters = state.slots.get(plan.slot_id), dict(plan.parameters)
    if slot is None or state.config.config_widths != REFUSE:
        return
    amount = parameters.get("heads" if slot.heads is not None else "width")
    if amount and (why := refusal(state.arm.model, slot, int(amount))):
        raise GraftFailed(why)


def _seen_padding(state: ExecutorState, life: Life, step: int) -> str:
    """What to say of a seed that attends, where no mask is named and samples look as if they were of several lengths.

    Raises GraftFailed where the host masks positions and the seed can't know which.
    """
    if life.plan.factory in STACK_FACTORIES:
        return ""
    graft = shadow_graft(life.plan, state.slot(life.plan.slot_id), life.module, step)
    if graft.masks is None:
        return ""
    model, what = state.arm.model, f"{life.plan.blueprint_id} in {life.plan.slot_id}"
    graft.attach(model, state.arm.grafts)
    try:
        with masks_given(model) as given:
            state.outputs()
        if graft.masks.reached_seed:
            return ""
        if given:
            raise GraftFailed(f"{what} would attend over padding: it can't know {given[0]}; {REMEDY}")
    finally:
        graft.detach()
    sign = sign_of_padding(state.task.probe_inputs())
    if not sign:
        return ""
    return f"{what} attends over padding, if there is any: {sign}, and no mask has a known name; {REMEDY}"


def grow(state: ExecutorState, plan: SeedPlan) -> torch.nn.Module:
    """A new module for the plan, at the host's present sizes; empty for a stack."""
    if plan.factory in STACK_FACTORIES:
        return torch.nn.Module()
    return build_seed(
        state.arm.model,
        state.slot(plan.slot_id),
        plan.factory,
        dict(plan.parameters),
        initialization_seed=plan.initialization_seed,
        own=state.config.factories,
    )


def attach(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Puts the seed into the forward pass and the optimiser, and measures what that changes."""
    life = state.life(directive.seed_id)
    if state.arm.graft(directive.seed_id) is not None:
        raise GraftFailed(f"seed {directive.seed_id!r} is in the host's forward pass already")
    if directive.isolate:
        _check_isolable(state)
    before = state.outputs()
    blend = Blend(config=directive.blend, start_step=step)
    graft = Graft(life.plan, state.slot(life.plan.slot_id), life.module, blend, is_isolated=directive.isolate)
    state.arm.attach(graft)
    try:
        after = state.outputs()
        if after.shape != before.shape or not bool(torch.isfinite(after).all()):
            raise GraftFailed(f"with seed {graft.seed_id} the host's outputs are {list(after.shape)} or not finite")
        costs = count_macs(state.arm, state.task.probe_inputs(), forward=state.task.forward)
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
    life = state.life(directive.seed_id)
    _check_isolable(state)
    graft = shadow_graft(life.plan, state.slot(life.plan.slot_id), life.module, step)
    life.incubation = Incubation(
        graft,
        state.arm.optimizer,
        state.arm.model,
        duration_steps=directive.duration_steps,
        teacher=_teacher(state, directive.teacher_digest),
    )
    return {}


def _teacher(state: ExecutorState, digest: str) -> Teacher | None:
    """The teacher of that digest, which must be the one that is loaded here."""
    if not digest:
        return None
    if state.teacher is None:
        why = "an order made the run forget it" if state.is_teacher_dropped else "start the run with --teacher"
        raise GraftFailed(f"teacher {digest} isn't loaded here: {why}")
    if state.teacher.digest != digest:
        raise GraftFailed(f"the teacher that is loaded here has digest {state.teacher.digest}, expected {digest}")
    return state.teacher


def drop_teacher(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Nobody learns from it any more; a seed that did goes on by the task alone."""
    state.is_teacher_dropped = True
    for life in state.lives.values():
        if life.incubation is not None:
            life.incubation.forget_teacher()
    return {}


def _check_isolable(state: ExecutorState) -> None:
    if state.macs.is_reentrant:
        raise GraftFailed(
            "a seed's isolation can't be proven in a host with re-entrant checkpoints, whose forward pass records "
            "nothing: use checkpoint(..., use_reentrant=False)"
        )
