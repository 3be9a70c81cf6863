"""What one more seed may cost."""

import pytest

from esper.kasmina.control import dispatch
from esper.kasmina.control.advance import advance
from esper.kasmina.control.budget import budget_problem
from esper.leyline import Budget, SeedRecord, SeedStage, SeedState
from esper.urza.cost import Cost
from tests.unit.kasmina.control.making import fresh_state, germinate, refusal_of, request, spec, turn

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
    # the past, as much again for the other half of the run, the seed's share of it, and the twin's window
    forecast = 1_000_000 + 1_000_000 + 1_000_000 * 90 // 480 + 1_000_000 * 200 // 1050
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
