from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ContractError
from esper.leyline import TaskType, TriggerSettings
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.trigger import resolve, setting_violations, updated
from tests.unit.tamiyo.builders import AUTO, NEVER

CLASSIFICATION = TaskType.TASK_TYPE_CLASSIFICATION


def test_what_a_run_leaves_open_comes_from_its_task_and_its_length() -> None:
    trigger = resolve(TriggerSettings(trigger=AUTO), task=CLASSIFICATION, total_steps=2000, config=TamiyoConfig())
    defaults = TamiyoConfig().classification
    assert (trigger.slope_threshold, trigger.saturation_floor) == (defaults.slope, defaults.floor)
    assert (trigger.warmup_steps, trigger.window_steps) == (200, 100)


def test_what_a_run_says_wins_even_when_it_is_zero() -> None:
    settings = TriggerSettings(trigger=AUTO, slope_threshold=0.1, warmup_steps=0, slope_window_steps=7)
    trigger = resolve(settings, task=CLASSIFICATION, total_steps=2000, config=TamiyoConfig())
    assert (trigger.slope_threshold, trigger.warmup_steps, trigger.window_steps) == (0.1, 0, 7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slope_threshold", 0.0),
        ("slope_threshold", float("nan")),
        ("saturation_floor", -1.0),
        ("saturation_share", 1.5),
        ("slope_window_steps", 0),
        ("span_factor", 1.0),
        ("span_factor", 16.5),
        ("span_factor", float("nan")),
        ("span_units", 0),
        ("span_units", 1025),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    settings = TriggerSettings(trigger=AUTO, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=field):
        resolve(settings, task=CLASSIFICATION, total_steps=2000, config=TamiyoConfig())


@given(
    st.builds(
        TriggerSettings,
        trigger=st.sampled_from([0, AUTO, NEVER]),
        slope_threshold=st.none() | st.floats(0.001, 10),
        warmup_steps=st.none() | st.integers(0, 1000),
        blueprint_ids=st.lists(st.sampled_from(["span.linear", "span.conv"]), max_size=2),
    )
)
def test_an_update_changes_what_it_names_and_nothing_else(change: TriggerSettings) -> None:
    old = TriggerSettings(trigger=AUTO, slope_threshold=0.3, saturation_floor=0.05, blueprint_ids=["gate.channel"])
    new = updated(old, change)
    assert new.trigger == (change.trigger or old.trigger)
    assert new.saturation_floor == old.saturation_floor
    assert new.slope_threshold == (change.slope_threshold if change.HasField("slope_threshold") else 0.3)
    assert list(new.blueprint_ids) == (list(change.blueprint_ids) or ["gate.channel"])
    assert updated(new, change) == new
    assert not setting_violations(new)


def test_a_new_way_to_widen_takes_the_place_of_the_old_one() -> None:
    assert updated(TriggerSettings(span_units=8), TriggerSettings(span_factor=2.0)) == TriggerSettings(span_factor=2.0)
    assert updated(TriggerSettings(span_factor=2.0), TriggerSettings(trigger=AUTO)).span_factor == 2.0
