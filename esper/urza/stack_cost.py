"""What a stack makes of a run's training work: two arms while it is judged, the evaluations, the deeper network after.

A forecast errs to the dear side: every look is taken, the stack is kept. Whole numbers only: it must come out alike on
every machine. Work of a step is taken from what the run has spent so far, by the networks that it has trained since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.core.growth import stack_window_steps
from esper.leyline import LifeSettings, SeedStage, SeedState
from esper.urza.cost import WINDOWS, trained_macs

LOOKS = 3
"""An early one, the window's end, and one more window's end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackAccount:
    """What a run has spent, and what the judgement of a stack takes."""

    training_macs: int
    steps_done: int
    total_steps: int
    forward_macs: int
    """Of the network as it is now, for one sample."""
    graft_step: int
    """From which step on the deeper network trains."""
    window_steps: int
    reaction_steps: int
    growth_end_step: int
    evaluations: int
    """Evaluations of one look."""
    samples: int
    """Samples of one evaluation, in either arm."""


def stack_account(
    life: LifeSettings,
    *,
    total_steps: int,
    training_macs: int,
    steps_done: int,
    forward_macs: int,
    graft_step: int,
    seen_samples: int = 0,
) -> StackAccount:
    """The account of a run under its settings; an evaluation that was seen counts if it took more than they say."""
    judged = life.judge_samples if life.HasField("judge_samples") else life.min_samples
    return StackAccount(
        training_macs=training_macs,
        steps_done=steps_done,
        total_steps=total_steps,
        forward_macs=forward_macs,
        graft_step=max(steps_done, graft_step),
        window_steps=stack_window_steps(life, total_steps),
        reaction_steps=life.reaction_steps,
        growth_end_step=life.growth_end_step,
        evaluations=life.stack.evaluations,
        samples=max(-(-judged // max(1, life.stack.parts)), seen_samples),
    )


def forecast_stack_macs(run: StackAccount, seeds: Sequence[SeedState], *, added_macs: int) -> int:
    """Training MACs of the whole run if a stack of `added_macs` is germinated now and kept at its last look.

    `seeds` are those that the run has had, in order.
    """
    trained = trained_macs(run.forward_macs, run.steps_done, seeds)
    if trained == 0:
        return run.training_macs
    steps_left = max(0, run.total_steps - run.graft_step)
    has_extension = run.graft_step + WINDOWS * run.window_steps <= run.growth_end_step
    windows = WINDOWS if has_extension else 1
    twin_steps = min(steps_left, windows * run.window_steps + 2 * run.reaction_steps)
    to_train = (run.graft_step - run.steps_done + twin_steps) * run.forward_macs
    to_train += steps_left * (run.forward_macs + added_macs)
    to_evaluate = (LOOKS if has_extension else LOOKS - 1) * run.evaluations * (2 * run.forward_macs + added_macs)
    of_steps = max(0, run.training_macs - run.samples * _evaluated(run, seeds))
    return run.training_macs + of_steps * to_train // trained + run.samples * to_evaluate


def _evaluated(run: StackAccount, seeds: Sequence[SeedState]) -> int:
    """Evaluations so far, each counted as the forward MACs for one sample of both arms."""
    kept = sum(seed.forward_macs for seed in seeds if seed.stage == SeedStage.SEED_STAGE_FOSSILIZED)
    host, evaluated = run.forward_macs - kept, 0
    for seed in seeds:
        looks = min(LOOKS, 1 + seed.age_steps // run.window_steps)
        evaluated += looks * run.evaluations * (2 * host + seed.forward_macs)
        if seed.stage == SeedStage.SEED_STAGE_FOSSILIZED:
            host += seed.forward_macs
    return evaluated
