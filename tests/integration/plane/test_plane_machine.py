"""The plane under anything at any time: a few courses here, thousands of steps as a drill."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.plane.killed_plane import KilledPlaneMachine
from tests.integration.plane.plane_machine import PlaneMachine

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_a_few_courses() -> None:
    run_state_machine_as_test(PlaneMachine, settings=settings(max_examples=6, stateful_step_count=8, **CALM))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_steps() -> None:
    run_state_machine_as_test(PlaneMachine, settings=settings(max_examples=60, stateful_step_count=50, **CALM))


def test_each_service_killed_amid_its_work() -> None:
    """One course; random ones are a drill."""
    machine = KilledPlaneMachine()
    try:
        machine.begin()
        machine.decide(is_lost=False, lives=True)
        machine.kill_amid_an_order(moment_s=0.003, pauses=False)
        machine.kill_amid_a_boundary(moment_s=0.001, gain=0.05)
        machine.kill_amid_a_prefetch(moment_s=0.01, name="weatherlight", number=0)
        machine.kill_amid_a_prefetch(moment_s=0.003, name="kasmina", number=1)
        machine.kill("tamiyo")
        machine.decide(is_lost=True, lives=False)
        for held in machine.invariants:
            held.function(machine)
    finally:
        machine.teardown()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_steps_with_kills() -> None:
    run_state_machine_as_test(KilledPlaneMachine, settings=settings(max_examples=40, stateful_step_count=50, **CALM))
