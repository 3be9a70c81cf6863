"""The plan of looks at a stack: fixed at the graft, inside the run, and within the error it may spend."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ConfigError
from esper.kasmina.control.judge.stack_plan import StackPlan, StackSettings, plan_looks, window_error


def plan(settings: StackSettings | None = None, **changes: int) -> StackPlan:
    steps = {"graft_step": 1000, "recovery_steps": 200, "total_steps": 3000, "end_step": 2400, "look": 1}
    return plan_looks(**{**steps, **changes}, settings=settings or StackSettings())


def test_looks_are_at_two_thirds_and_the_end_of_the_window_and_at_the_end_of_one_more() -> None:
    assert [look.step for look in plan().looks] == [1200, 1300, 1600]


def test_eight_even_evaluations_stand_in_the_last_third_before_a_look() -> None:
    assert plan().looks[1].evaluations == (1213, 1225, 1238, 1250, 1263, 1275, 1288, 1300)


def test_the_window_is_half_again_the_recovery() -> None:
    assert plan(recovery_steps=120).window_steps == 180


def test_the_window_is_capped_by_its_share_of_the_run() -> None:
    assert plan(recovery_steps=280).window_steps == 300


def test_a_first_look_refuses_nothing_while_another_window_has_room() -> None:
    assert [look.may_refuse for look in plan().looks] == [False, False, True]


def test_the_windows_end_is_the_last_word_where_no_other_window_has_room() -> None:
    late = plan(graft_step=2050)
    assert [(look.step, look.may_refuse) for look in late.looks] == [(2250, False), (2350, True)]


def test_without_a_share_of_the_error_there_is_no_early_look() -> None:
    looks = plan(StackSettings(early_error_share=0.0)).looks
    assert [look.step for look in looks] == [1300, 1600]
    assert looks[0].error == window_error(1, StackSettings())


def test_the_early_look_and_the_windows_end_divide_what_the_window_may_spend() -> None:
    early, end, extension = plan(look=2).looks
    assert early.error + end.error == pytest.approx(0.02 / 6)
    assert early.error < end.error
    assert extension.error == pytest.approx(0.02 / 12)


def test_all_windows_since_the_last_kept_seed_spend_at_most_the_promised_error() -> None:
    settings = StackSettings(error_rate=0.05)
    assert sum(window_error(look, settings) for look in range(1, 10_000)) <= 0.05


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"recovery_steps": 301}, "window_fraction", "300 steps end before a stack has recovered, about 301"),
        ({"graft_step": 2101}, "graft_step", "must end by step 2400"),
        ({"recovery_steps": 20}, "min_evaluations", "don't fit into the last third of the first 20 steps"),
        ({"look": 0}, "look", "at least 1"),
        ({"recovery_steps": 0}, "recovery_steps", "at least 1"),
    ],
)
def test_a_plan_that_cannot_be_made_names_the_setting_and_what_to_do(
    changes: dict[str, int], key: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy) as caught:
        plan(**changes)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("margin", -0.001), ("margin", math.nan), ("margin", math.inf),
        ("error_rate", 0.0), ("error_rate", 0.6), ("error_rate", math.nan),
        ("early_error_share", 1.0), ("early_error_share", -0.1),
        ("min_evaluations", 2), ("min_samples", 0),
        ("max_clipped_share", 1.5), ("max_clipped_share", math.nan),
        ("window_recoveries", 0.9), ("window_recoveries", math.nan), ("window_fraction", 0.0), ("window_fraction", 1.1),
        ("wander_share", 0.0), ("wander_share", math.nan), ("wander_share", math.inf),
        ("wander_weight", -1), ("memory_steps", -1.0), ("memory_steps", math.inf),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        StackSettings(**{key: value})
    assert caught.value.key == key


@given(
    graft_step=st.integers(0, 3000),
    recovery_steps=st.integers(1, 400),
    end_step=st.integers(0, 3000),
    look=st.integers(1, 8),
    count=st.integers(3, 20),
    early=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_every_plan_keeps_its_evaluations_in_last_thirds_and_inside_the_run(
    graft_step: int, recovery_steps: int, end_step: int, look: int, count: int, early: float
) -> None:
    settings = StackSettings(min_evaluations=count, early_error_share=early)
    try:
        made = plan(settings, graft_step=graft_step, recovery_steps=recovery_steps, end_step=end_step, look=look)
    except ConfigError:
        return
    for planned in made.looks:
        length = planned.step - graft_step
        assert len(planned.evaluations) == count
        assert all(first < second for first, second in pairwise(planned.evaluations))
        assert all(3 * (step - graft_step) > 2 * length for step in planned.evaluations)
        assert planned.step <= end_step
    assert [planned.may_refuse for planned in made.looks] == [False] * (len(made.looks) - 1) + [True]
    assert made.window_steps >= recovery_steps
