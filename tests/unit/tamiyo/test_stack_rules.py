"""Rules that say by the course of the loss when a stack is due: at a knee, or by a forecast at equal work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ContractError
from esper.leyline import (
    DecisionReason,
    LossPoint,
    SeedStage,
    StackRule,
    TamiyoRunSpec,
    TamiyoRunState,
    TriggerSettings,
)
from esper.tamiyo.deciding.decide import decide
from esper.tamiyo.policy import HeuristicPolicy
from esper.tamiyo.stack_rules import DOUBLING_SHARE, KNEE_SHARE, course_start, log_fall
from tests.unit.tamiyo.builders import ALWAYS, AUTO, context, first_state, life, look_up, spec
from tests.unit.tamiyo.growing.test_stacks import SLOT, at, host, judging, stack_seed

R = DecisionReason
KNEE, FORECAST = StackRule.STACK_RULE_KNEE, StackRule.STACK_RULE_FORECAST
TOTAL, GROWTH_END, BEND, EVERY = 6000, 4800, 300, 20
Loss = Callable[[int], float]


def rule_spec(rule: StackRule, mode: int = AUTO, **changes: Any) -> TamiyoRunSpec:
    trigger = TriggerSettings(trigger=mode, stack_rule=rule, target_depth=16)  # type: ignore[arg-type]
    settings = {"manifest": host(), "life": life(stack=judging(), growth_end_step=GROWTH_END), "trigger": trigger}
    return spec(**{**settings, "total_steps": TOTAL, **changes})


def bending(step: int) -> float:
    """Falls by 1.5 nats e-fold until the bend, and by ever less after."""
    return 12.0 - 1.5 * math.log(step) if step <= BEND else 12.0 - 1.5 * math.log(BEND) - 1.5 * (1 - BEND / step)


def straight(step: int) -> float:
    """A line in 1 / step."""
    return 1.0 + 300.0 / step


def grown_at(run: TamiyoRunSpec, loss: Loss, stacks: int = 1) -> list[int]:
    """Steps at which stacks are ordered, where each is kept 200 steps later and jumps to nowhere."""
    made, state, seeds, found = context(run), first_state(run), list[Any](), list[int]()
    for step in range(EVERY, GROWTH_END, EVERY):
        verdict = decide(made, state, at(step, loss=loss(step), seeds=seeds), policy=HeuristicPolicy(), select=look_up)
        state = verdict.state
        if verdict.issues:
            found.append(step)
            del state.open_commands[:]
            seeds = [*seeds, stack_seed(seed_id=f"s{len(found)}", stage_step=step + 200)]
        if len(found) == stacks:
            break
    return found


def test_a_stack_comes_where_the_fall_is_half_of_the_steepest_and_the_next_where_it_is_a_quarter() -> None:
    first, second = grown_at(rule_spec(KNEE), bending, stacks=2)
    # Behind the bend the fall is as BEND / step, and it is measured over the last third of the steps.
    for found, share in ((first, KNEE_SHARE), (second, KNEE_SHARE**2)):
        assert BEND / share < found < 1.3 * BEND / share


def test_a_forecast_grows_where_the_deeper_network_is_expected_to_end_lower_at_equal_work() -> None:
    (step,) = grown_at(rule_spec(FORECAST), straight)

    def is_ahead(step: int) -> bool:
        ratio = 1 + 2 * 80 / 480
        alone = straight(step + (GROWTH_END - step) * ratio)  # type: ignore[arg-type]
        return (1 - DOUBLING_SHARE) * straight(GROWTH_END) <= alone

    assert is_ahead(step)
    earlier = step - EVERY
    assert earlier < TOTAL // 10 or not is_ahead(earlier), "the first step at which it is"


def test_what_a_rule_waits_for_is_told_with_its_numbers() -> None:
    steep: dict[StackRule, tuple[Loss, str]] = {
        KNEE: (lambda step: 12.0 - 1.5 * math.log(step), "the knee is at"),
        FORECAST: (lambda step: 1.0 + 3000.0 / step, "twice as deep at"),
    }
    for rule, (loss, words) in steep.items():
        made, state = context(rule_spec(rule)), first_state(rule_spec(rule))
        for step in range(EVERY, 900, EVERY):
            seen = at(step, loss=loss(step))
            verdict = decide(made, state, seen, policy=HeuristicPolicy(), select=look_up)
            state = verdict.state
        assert verdict.metadata.reasons == [R.DECISION_REASON_STILL_IMPROVING]
        assert words in verdict.metadata.detail


def test_no_rule_speaks_before_growth_may_begin_and_a_forced_run_asks_none() -> None:
    for rule in (KNEE, FORECAST):
        quiet, forced = grown_at(rule_spec(rule), lambda step: 2.0), grown_at(rule_spec(rule, ALWAYS), bending)
        assert quiet[0] >= TOTAL // 10
        assert forced == [EVERY]


def test_a_stack_that_is_kept_begins_a_course_of_its_own() -> None:
    state = TamiyoRunState(last_change_step=900)
    state.window.extend(LossPoint(step=step, loss=2.0 - step / 1000) for step in range(700, 1001, 10))
    assert log_fall(state, 1000) is None, "a hundred steps are no course"
    state.last_change_step = 0
    assert log_fall(state, 1000) == pytest.approx(0.82, abs=0.05)


@given(slope=st.floats(-2, 2), step=st.integers(100, 10_000))
def test_the_fall_is_that_of_a_straight_line_over_the_logarithm(slope: float, step: int) -> None:
    state = TamiyoRunState()
    steps = range(max(1, course_start(step)), step + 1, max(1, step // 60))
    state.window.extend(LossPoint(step=each, loss=3.0 - slope * math.log(each)) for each in steps)
    assert log_fall(state, step) == pytest.approx(slope, abs=1e-6)


def test_a_run_has_either_steps_or_a_rule() -> None:
    both = TriggerSettings(trigger=AUTO, stack_rule=KNEE, stack_steps=[10])
    with pytest.raises(ContractError, match="give the steps, or the rule"):
        context(spec(trigger=both, manifest=host()))


def test_a_run_that_fixed_its_steps_keeps_no_fall_in_its_state() -> None:
    fixed = rule_spec(StackRule.STACK_RULE_UNSPECIFIED)
    verdict = decide(context(fixed), first_state(fixed), at(500, loss=1.0), policy=HeuristicPolicy(), select=look_up)
    assert not verdict.state.HasField("steepest_fall")


def test_a_stack_that_was_culled_had_its_turn() -> None:
    """The next one is due at the next knee, not at once."""
    run, dead = rule_spec(KNEE), [stack_seed(SeedStage.SEED_STAGE_DORMANT)]
    made, state = context(run), first_state(run)
    state.steepest_fall = 0.9
    state.window.extend(LossPoint(step=step, loss=3.0 - 0.3 * math.log(step)) for step in range(1000, 1600, 10))
    before = decide(made, state, at(1600, loss=3.0 - 0.3 * math.log(1600)), policy=HeuristicPolicy(), select=look_up)
    after = decide(
        made, state, at(1600, loss=3.0 - 0.3 * math.log(1600), seeds=dead), policy=HeuristicPolicy(), select=look_up
    )
    assert before.issues
    assert not after.issues
    assert SLOT in [slot.slot_id for slot in made.spec.manifest.slots]
