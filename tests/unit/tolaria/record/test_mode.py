"""The run's mode: conservative at once, normal only after several clean answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.mode import CLEAN_RESULTS, RunMode


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
