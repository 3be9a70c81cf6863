"""What one more seed may cost."""

import pytest

from esper.kasmina.control.budget import budget_problem
from esper.leyline import Budget, SeedRecord, SeedStage, SeedState
from esper.urza.cost import Cost
from tests.unit.kasmina.control.making import fresh_state, spec

SEED = Cost(parameters=100, forward_macs=90)


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(max_parameters=600), None),
        (Budget(max_parameters=599), "max_parameters"),
        (Budget(max_forward_macs=570), None),
        (Budget(max_forward_macs=569), "max_forward_macs"),
        (Budget(max_seeds=0), "max_seeds"),
        (Budget(max_memory_bytes=600 * 16), None),
        (Budget(max_memory_bytes=600 * 16 - 1), "max_memory_bytes"),
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
