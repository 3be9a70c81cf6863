"""The plane under anything at any time: a few courses here, thousands of steps as a drill."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.plane_machine import PlaneMachine

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_a_few_courses() -> None:
    run_state_machine_as_test(PlaneMachine, settings=settings(max_examples=6, stateful_step_count=8, **CALM))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_steps() -> None:
    run_state_machine_as_test(PlaneMachine, settings=settings(max_examples=60, stateful_step_count=50, **CALM))
