"""A paused seed: out of the forward pass, with weights, optimiser state, blend and what waits for it as they were.

Nothing of it moves meanwhile: without gradients an optimiser passes its parameters by, and its courses of alpha, of
warm-up and of incubation, and the steps at which it is to be judged, are put off by as long as it was paused.
"""

from __future__ import annotations

from dataclasses import replace

from esper.core.errors import GraftFailed
from esper.kasmina.executor.state import ExecutorState, Facts, Life
from esper.leyline import DirectiveKind, SeedDirective

HELD = frozenset(
    {
        DirectiveKind.DIRECTIVE_KIND_ATTACH,
        DirectiveKind.DIRECTIVE_KIND_SET_BLEND,
        DirectiveKind.DIRECTIVE_KIND_PROBE,
        DirectiveKind.DIRECTIVE_KIND_JUDGE,
    }
)
"""What is done to a seed in the forward pass, and so waits while it is paused; it can leave the host at any time."""


def mute(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """Out of the forward pass from the next step on."""
    life = state.life(directive.seed_id)
    if life.run is not None:
        raise GraftFailed(f"seed {directive.seed_id} is a stack, and part of the host: it can't be paused")
    if life.paused_step is not None:
        raise GraftFailed(f"seed {directive.seed_id} is paused already, since step {life.paused_step}")
    life.paused_step = step
    _set_muted(state, life, is_muted=True)
    return {}


def unmute(state: ExecutorState, directive: SeedDirective, step: int) -> Facts:
    """It goes on where it was."""
    life = state.life(directive.seed_id)
    if life.paused_step is None:
        raise GraftFailed(f"seed {directive.seed_id} isn't paused")
    missed, life.paused_step = step - life.paused_step, None
    graft = state.arm.graft(directive.seed_id)
    if graft is not None:
        graft.blend = replace(graft.blend, start_step=graft.blend.start_step + missed)
    if life.incubation is not None:
        life.incubation.start_step += missed
    for waiting in state.queue:
        if waiting.seed_id == directive.seed_id:
            waiting.at_step += missed
    _set_muted(state, life, is_muted=False)
    return {}


def is_held(state: ExecutorState, directive: SeedDirective) -> bool:
    """Whether a directive waits because its seed is paused."""
    life = state.lives.get(directive.seed_id)
    return life is not None and life.paused_step is not None and directive.kind in HELD


def _set_muted(state: ExecutorState, life: Life, *, is_muted: bool) -> None:
    graft = state.arm.graft(life.plan.seed_id)
    if graft is not None:
        graft.is_muted = is_muted
        # Other work, and other parameters without a gradient, which many ranks must know of.
        state.topology_changed()
