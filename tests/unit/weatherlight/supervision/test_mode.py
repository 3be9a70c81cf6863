"""The mode gets worse at once, and better only after dwell and hysteresis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.clock import ManualClock, timestamp
from esper.core.errors import ConfigError
from esper.leyline import EmergencyLevel, EmergencySignal, HealthStatus, ServiceStatus, SystemMode
from esper.weatherlight.supervision.mode import (
    DEGRADED,
    EMERGENCY,
    LIVES,
    NORMAL,
    STEADY,
    Facts,
    ModeConfig,
    ModeMachine,
    conditions,
)

CONFIG = ModeConfig(dwell_s=10.0, clear_s=5.0)


def service(
    name: str = "tamiyo",
    *,
    instance: str = "i",
    is_lost: bool = False,
    health: str = "HEALTHY",
    summary: str = "",
    run: str | None = None,
) -> ServiceStatus:
    status = HealthStatus.Value(f"HEALTH_STATUS_{health}")
    return ServiceStatus(
        service=name, instance=instance, is_lost=is_lost, health=status, summary=summary, training_run_id=run
    )


HALT = "halt (raised by tolaria, id e1)"


def emergency(level: str) -> EmergencySignal:
    value = EmergencyLevel.Value(f"EMERGENCY_LEVEL_{level}")
    return EmergencySignal(emergency_id="e1", level=value, cause="halt", origin="tolaria", raised_at=timestamp(0))


def test_what_keeps_weatherlight_itself_from_its_duties_degrades_the_plane() -> None:
    facts = conditions([service()], [], "duty ingest can't be done: Redis is away")
    assert facts == Facts(DEGRADED, "weatherlight is unwell: duty ingest can't be done: Redis is away")
    of_run = service(health="DEGRADED", run="r1")
    assert conditions([of_run], [], "Redis is away").only_run is None


@pytest.mark.parametrize(
    ("services", "emergencies", "mode", "cause"),
    [
        ([], [], NORMAL, STEADY),
        ([service()], [], NORMAL, STEADY),
        ([service(health="DEGRADED", summary="conservative")], [], DEGRADED, "tamiyo is unwell: conservative"),
        ([service(is_lost=True), service(instance="j")], [], NORMAL, STEADY),
        ([service("tolaria", is_lost=True)], [], NORMAL, STEADY),
        ([service(is_lost=True)], [], DEGRADED, "tamiyo (i) is lost"),
        ([service(health="UNHEALTHY", summary="disk full")], [], DEGRADED, "tamiyo is unwell: disk full"),
        ([], [emergency("L1_NOTICE")], NORMAL, f"{LIVES}; L1_NOTICE: {HALT}"),
        ([service(is_lost=True)], [emergency("L1_NOTICE")], DEGRADED, "tamiyo (i) is lost"),
        ([], [emergency("L2_ELEVATED")], DEGRADED, f"L2_ELEVATED: {HALT}"),
        ([service(is_lost=True)], [emergency("L3_CONSERVATIVE")], EMERGENCY, f"L3_CONSERVATIVE: {HALT}"),
        ([], [emergency("L4_HALT")], EMERGENCY, f"L4_HALT: {HALT}"),
    ],
)
def test_the_facts_decide_the_mode_and_name_its_cause(
    services: list[ServiceStatus], emergencies: list[EmergencySignal], mode: SystemMode, cause: str
) -> None:
    assert conditions(services, emergencies) == Facts(mode, cause)


def test_a_policy_that_is_conservative_about_one_run_names_it_where_nothing_else_is_wrong() -> None:
    unwell = service(health="DEGRADED", summary="conservative", run="r1")
    assert conditions([unwell], []).only_run == "r1"
    assert conditions([unwell, service("kasmina", is_lost=True)], []).only_run is None
    assert conditions([unwell], [emergency("L2_ELEVATED")]).only_run is None
    assert conditions([unwell, service(instance="j", health="DEGRADED", run="r2")], []).only_run is None


def test_an_emergency_ends_with_its_acknowledgement() -> None:
    machine = ModeMachine(ManualClock(), CONFIG)
    machine.update(Facts(EMERGENCY, "halt"))
    assert machine.update(Facts(NORMAL, STEADY))
    assert machine.mode == NORMAL


def test_it_gets_worse_at_once() -> None:
    machine = ModeMachine(ManualClock(), CONFIG)
    assert machine.update(Facts(DEGRADED, "lost"))
    assert machine.update(Facts(EMERGENCY, "halt"))
    assert machine.mode == EMERGENCY


def test_it_stays_for_its_dwell_time_even_when_all_is_well() -> None:
    clock = ManualClock()
    machine = ModeMachine(clock, CONFIG)
    machine.update(Facts(DEGRADED, "lost"))
    for _ in range(9):
        assert not machine.update(Facts(NORMAL, STEADY))
        clock.advance(1.0)
    assert machine.mode == DEGRADED
    clock.advance(1.0)
    assert machine.update(Facts(NORMAL, STEADY))


def test_a_relapse_starts_the_clear_time_again() -> None:
    clock = ManualClock()
    machine = ModeMachine(clock, CONFIG)
    machine.update(Facts(DEGRADED, "lost"))
    clock.advance(20.0)
    machine.update(Facts(NORMAL, STEADY))
    clock.advance(4.0)
    machine.update(Facts(DEGRADED, "lost"))
    clock.advance(4.0)
    assert not machine.update(Facts(NORMAL, STEADY))
    clock.advance(4.9)
    assert not machine.update(Facts(NORMAL, STEADY))
    clock.advance(0.1)
    assert machine.update(Facts(NORMAL, STEADY))


def test_a_new_cause_is_a_change_though_the_mode_is_not() -> None:
    machine = ModeMachine(ManualClock(), CONFIG)
    assert machine.update(Facts(DEGRADED, "a"))
    assert not machine.update(Facts(DEGRADED, "a"))
    assert machine.update(Facts(DEGRADED, "b"))
    assert machine.describe([]).cause == "b"


def test_a_step_of_the_wall_clock_changes_nothing() -> None:
    clock = ManualClock()
    machine = ModeMachine(clock, CONFIG)
    machine.update(Facts(DEGRADED, "lost"))
    machine.update(Facts(NORMAL, STEADY))
    clock.set(clock.now_ns() + 10**15)
    assert not machine.update(Facts(NORMAL, STEADY))


@given(st.lists(st.tuples(st.sampled_from([NORMAL, DEGRADED, EMERGENCY]), st.floats(0.0, 4.0)), max_size=60))
def test_the_mode_is_never_better_than_the_facts_and_never_flaps(history: list[tuple[SystemMode, float]]) -> None:
    clock = ManualClock()
    machine = ModeMachine(clock, CONFIG)
    entered_ns, mode = clock.monotonic_ns(), machine.mode
    for wanted, seconds in history:
        machine.update(Facts(wanted, "why"))
        assert machine.mode >= wanted
        if machine.mode != mode:
            if machine.mode < mode == DEGRADED:
                assert clock.monotonic_ns() - entered_ns >= 10 * 10**9
            entered_ns, mode = clock.monotonic_ns(), machine.mode
        clock.advance(seconds)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 1e300])
def test_times_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="dwell_s"):
        ModeConfig(dwell_s=seconds)
