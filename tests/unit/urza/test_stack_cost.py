"""The work of a run that grows a stack: held to the booked work of runs that were really made, and never below it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import SeedStage, SeedState
from esper.urza.stack_cost import StackAccount, forecast_stack_macs

HOST, BLOCKS, RATE = 1000, 800, 3 * 64
ACCOUNT = StackAccount(
    training_macs=100 * RATE * HOST,
    steps_done=100,
    total_steps=1000,
    forward_macs=HOST,
    graft_step=110,
    window_steps=60,
    reaction_steps=10,
    growth_end_step=700,
    evaluations=8,
    samples=300,
)


def booked(*, graft: int, verdict: int, looks: int, kept: bool, until: int, added: int = BLOCKS) -> int:
    """What the trainer books until a step: the network, its twin from graft to verdict, and both arms' evaluations."""
    alone = min(graft, until) + (0 if kept else max(0, until - verdict))
    deeper = until - alone
    twin = max(0, min(verdict, until) - graft)
    steps = alone * HOST + deeper * (HOST + added) + twin * HOST
    return RATE * steps + looks * 8 * 300 * (2 * HOST + added)


def test_a_forecast_is_never_below_what_the_dearest_course_costs_and_close_to_it() -> None:
    course = booked(graft=110, verdict=110 + 120 + 20, looks=3, kept=True, until=1000)
    told = forecast_stack_macs(ACCOUNT, [], added_macs=BLOCKS)
    assert told == course
    assert told > ACCOUNT.training_macs * 10 * 1.8  # the twin and the evaluations are in it


def test_a_graft_that_comes_later_costs_less() -> None:
    later = replace(ACCOUNT, graft_step=120)
    saved = forecast_stack_macs(ACCOUNT, [], added_macs=BLOCKS) - forecast_stack_macs(later, [], added_macs=BLOCKS)
    assert saved == 10 * RATE * BLOCKS


def test_judging_on_many_samples_is_dear() -> None:
    few, many = (
        forecast_stack_macs(replace(ACCOUNT, samples=samples), [], added_macs=BLOCKS) for samples in (300, 10_300)
    )
    assert many - few == 10_000 * 3 * 8 * (2 * HOST + BLOCKS)


def test_where_a_second_window_has_no_room_none_is_counted() -> None:
    tight = replace(ACCOUNT, growth_end_step=229)
    assert forecast_stack_macs(tight, [], added_macs=BLOCKS) < forecast_stack_macs(ACCOUNT, [], added_macs=BLOCKS)


def past(stage: SeedStage, *, graft: int, verdict: int, now: int) -> tuple[StackAccount, SeedState]:
    kept = stage == SeedStage.SEED_STAGE_FOSSILIZED
    spent = booked(graft=graft, verdict=verdict, looks=3, kept=kept, until=now)
    seed = SeedState(stage=stage, age_steps=verdict - graft, stage_step=verdict, forward_macs=BLOCKS)
    forward = HOST + (BLOCKS if kept else 0)
    return replace(ACCOUNT, training_macs=spent, steps_done=now, graft_step=now, forward_macs=forward), seed


def test_the_work_of_a_step_is_known_again_after_stacks_that_were_kept_or_undone() -> None:
    kept, seed = past(SeedStage.SEED_STAGE_FOSSILIZED, graft=110, verdict=250, now=400)
    more = forecast_stack_macs(kept, [seed], added_macs=BLOCKS) - kept.training_macs
    assert more == RATE * (600 * (HOST + 2 * BLOCKS) + 140 * (HOST + BLOCKS)) + 300 * 24 * (2 * HOST + 3 * BLOCKS)
    undone, seed = past(SeedStage.SEED_STAGE_DORMANT, graft=110, verdict=250, now=400)
    more = forecast_stack_macs(undone, [seed], added_macs=BLOCKS) - undone.training_macs
    assert more == RATE * (600 * (HOST + BLOCKS) + 140 * HOST) + 300 * 24 * (2 * HOST + BLOCKS)


@given(st.integers(0, 999), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_longer_stack_never_costs_less(step: int, added: int, more: int) -> None:
    run = replace(ACCOUNT, steps_done=step, graft_step=step, training_macs=step * RATE * HOST)
    less = forecast_stack_macs(run, [], added_macs=added)
    assert run.training_macs <= less <= forecast_stack_macs(run, [], added_macs=added + more)
