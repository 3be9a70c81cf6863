"""What one more seed may cost."""

import pytest

from esper.kasmina.control.orders import dispatch
from esper.kasmina.control.orders.budget import budget_problem
from esper.kasmina.control.stages.advance import advance
from esper.leyline import Budget, SeedRecord, SeedStage, SeedState
from esper.urza.cost import Cost
from tests.unit.kasmina.control.making import (
    double,
    evaluation,
    fresh_state,
    germinate,
    refusal_of,
    request,
    spec,
    stack_run,
    turn,
)

SEED = Cost(parameters=100, forward_macs=90)


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(max_parameters=600), None),
        (Budget(max_parameters=599), "max_parameters"),
        (Budget(max_forward_macs=570), None),
        (Budget(max_forward_macs=569), "max_forward_macs"),
        (Budget(max_seeds=0), "max_seeds"),
        (Budget(max_memory_bytes=(600 + 500) * 16), None),
        (Budget(max_memory_bytes=(600 + 500) * 16 - 1), "max_memory_bytes"),
        (Budget(), None),
    ],
)
def test_each_limit_holds_to_the_last_unit(budget: Budget, limit: str | None) -> None:
    problem = budget_problem(spec(budget=budget), fresh_state(), SEED)
    assert (problem is None) if limit is None else (problem or "").startswith(limit)


def test_what_was_kept_before_counts() -> None:
    state = fresh_state()
    state.growth.added_parameters = 50
    state.seeds.append(SeedRecord(state=SeedState(stage=SeedStage.SEED_STAGE_FOSSILIZED, forward_macs=30)))
    state.seeds.append(SeedRecord(state=SeedState(stage=SeedStage.SEED_STAGE_DORMANT, forward_macs=999)))
    assert budget_problem(spec(budget=Budget(max_parameters=649)), state, SEED) is not None
    assert budget_problem(spec(budget=Budget(max_parameters=650, max_forward_macs=600)), state, SEED) is None
    assert budget_problem(spec(budget=Budget(max_forward_macs=599)), state, SEED) is not None


def test_training_macs_are_forecast_from_the_trainers_last_account() -> None:
    state = fresh_state()
    state.training_macs, state.training_macs_step = 1_000_000, 1050
    # the past, as much again for the other half of the run, the seed's share of it, and the twin's two windows
    forecast = 1_000_000 + 1_000_000 + 1_000_000 * 90 // 480 + 1_000_000 * 400 // 1050
    assert budget_problem(spec(budget=Budget(max_training_macs=forecast)), state, SEED) is None
    problem = budget_problem(spec(budget=Budget(max_training_macs=forecast - 1)), state, SEED)
    assert problem == f"max_training_macs is {forecast - 1}, with this seed it would be {forecast}"


def test_an_advance_carries_the_account_that_a_germination_is_held_to() -> None:
    run = spec(budget=Budget(max_training_macs=1_000_000))
    state = fresh_state()
    work = turn(state, 50, run)
    advance(work, request(50, training_macs=900_000))
    advance(work, request(60))
    outcome = dispatch.apply(turn(work.state, 100, run), germinate())
    assert refusal_of(outcome) == "BUDGET_EXCEEDED"
    assert "max_training_macs" in outcome.detail
    assert dispatch.apply(turn(fresh_state(), 100, run), germinate()).accepted


def test_a_stack_is_held_to_what_its_two_arms_and_its_evaluations_cost_on_the_samples_seen() -> None:
    run, state = stack_run(), fresh_state()
    state.training_macs, state.training_macs_step = 100 * 480 * 64 * 3, 100
    price = Cost(parameters=300, forward_macs=240)

    def needed() -> int:
        run.budget.max_training_macs = 1
        problem = budget_problem(run, state, price, step=100) or ""
        return int(problem.rpartition(" ")[2])

    few = needed()
    run.budget.max_training_macs = few
    assert budget_problem(run, state, price, step=100) is None
    run.budget.max_training_macs = few - 1
    assert "max_training_macs" in (budget_problem(run, state, price, step=100) or "")
    undone = SeedRecord(state=SeedState(stage=SeedStage.SEED_STAGE_DORMANT, age_steps=0), evaluations=[evaluation(50)])
    undone.evaluations[0].twin.samples = 5000
    state.seeds.append(undone)
    its_own = 8 * 5000 * 2 * 480
    state.training_macs += its_own
    assert needed() == few + its_own + (5000 - 300) * 3 * 8 * (2 * 480 + 240)


def test_evaluations_are_booked_on_the_judging_set_as_it_was_told_also_before_any_was_seen() -> None:
    run, state = stack_run(), fresh_state()
    state.training_macs, state.training_macs_step = 100 * 480 * 64 * 3, 100
    run.budget.max_training_macs = 1

    def needed() -> int:
        problem = budget_problem(run, state, Cost(parameters=300, forward_macs=240), step=100) or ""
        return int(problem.rpartition(" ")[2])

    least = needed()
    run.life.judge_samples = 5000
    assert needed() == least + (5000 - 300) * 3 * 8 * (2 * 480 + 240)


def test_a_command_for_a_stack_beyond_the_budget_is_refused_with_its_numbers() -> None:
    run = stack_run()
    run.budget.max_training_macs = 10**9
    state = fresh_state()
    state.training_macs, state.training_macs_step = 9 * 10**8, 90
    outcome = dispatch.apply(turn(state, 100, run), double(step=100))
    assert refusal_of(outcome) == "BUDGET_EXCEEDED"
    assert outcome.detail.startswith("max_training_macs is 1000000000, with this seed it would be ")
