"""The run's mode: conservative at once, normal only after several clean answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import EmergencyLevel, EmergencySignal, ModeUpdate, SystemMode
from esper.tolaria.record.mode import CLEAN_RESULTS, RunMode, standing_of


def test_a_failure_makes_the_run_conservative_and_is_told_once() -> None:
    mode = RunMode()
    assert mode.name == "normal"
    assert "lost" in (mode.note("lost") or "")
    assert mode.note("lost") is None
    assert mode.name == "conservative"


@given(st.lists(st.booleans(), max_size=40))
def test_it_is_normal_exactly_when_the_last_few_answers_were_clean(failures: list[bool]) -> None:
    mode = RunMode()
    for has_failed in failures:
        mode.note("lost" if has_failed else None)
        restored = RunMode()
        restored.load_state_dict(mode.state_dict())
        mode = restored
    recent = failures[-CLEAN_RESULTS:]
    is_normal = not any(failures) or (len(recent) == CLEAN_RESULTS and not any(recent))
    # Fewer answers than the dwell with a failure among them keep the run conservative.
    assert (mode.name == "normal") == is_normal


def update(mode: str, *levels: str, only_run: str | None = None) -> ModeUpdate:
    signals = [
        EmergencySignal(
            emergency_id=level,
            level=EmergencyLevel.Value(f"EMERGENCY_LEVEL_{level}"),
            detail="why",
            origin="operator:a",
        )
        for level in levels
    ]
    number = SystemMode.Value(f"SYSTEM_MODE_{mode}")
    return ModeUpdate(mode=number, cause="cause", open_emergencies=signals, only_run=only_run)


def test_the_planes_mode_binds_the_run_and_is_told_with_level_cause_and_who() -> None:
    mode = RunMode()
    assert mode.hear(standing_of(update("NORMAL"), "r1")) is None
    told = mode.hear(standing_of(update("EMERGENCY", "L1_NOTICE", "L3_CONSERVATIVE"), "r1"))
    assert told == "the plane is EMERGENCY, L3_CONSERVATIVE: why (raised by operator:a, id L3_CONSERVATIVE, and 1 more)"
    assert (mode.name, mode.value) == ("emergency", SystemMode.SYSTEM_MODE_EMERGENCY)
    assert mode.hear(standing_of(update("NORMAL"), "r1")) == "the plane is NORMAL: cause"
    assert not mode.is_conservative


def test_a_halt_is_no_mode_so_that_the_run_goes_on_as_if_there_had_been_none() -> None:
    mode = RunMode()
    mode.hear(standing_of(update("EMERGENCY", "L4_HALT"), "r1"))
    assert (mode.name, mode.value) == ("emergency", SystemMode.SYSTEM_MODE_NORMAL)


def test_a_run_whose_own_policy_is_the_only_trouble_is_not_bound_by_the_plane() -> None:
    conservative = update("DEGRADED", only_run="r1")
    assert standing_of(conservative, "r1").mode == SystemMode.SYSTEM_MODE_NORMAL
    assert standing_of(conservative, "r2").mode == SystemMode.SYSTEM_MODE_DEGRADED
